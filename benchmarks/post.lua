-- wrk -s post.lua URL BODY.json: POST the file's content as JSON, over and over.
function init(arguments)
  local path = assert(arguments[1], "usage: wrk -s post.lua URL BODY.json")
  local file = assert(io.open(path, "rb"))
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.body = file:read("*a")
  file:close()
end
