-- wrk -s post.lua URL BODY [CONTENT-TYPE]: POST the file's content, JSON unless said otherwise, over and over.
-- The last line of what is printed is JSON: counts, seconds, and latencies in milliseconds.
function init(arguments)
  local path = assert(arguments[1], "usage: wrk -s post.lua URL BODY [CONTENT-TYPE]")
  local file = assert(io.open(path, "rb"))
  wrk.method = "POST"
  wrk.headers["Content-Type"] = arguments[2] or "application/json"
  wrk.body = file:read("*a")
  file:close()
end

function done(summary, latency)
  local errors = summary.errors
  local format = '{"requests": %d, "seconds": %f, "non_2xx": %d, "socket_errors": %d, '
    .. '"p50_ms": %f, "p90_ms": %f, "p99_ms": %f}\n'
  io.write(string.format(
    format,
    summary.requests,
    summary.duration / 1e6,
    errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3,
    latency:percentile(90) / 1e3,
    latency:percentile(99) / 1e3
  ))
end
