-- wrk -s post.lua URL BODY.json: POST the file's content as JSON, over and over.
function init(arguments)
  local file = assert(io.open(arguments[1], "rb"), "name a file with the JSON body")
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.body = file:read("*a")
  file:close()
end
