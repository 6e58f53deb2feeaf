-- Each request has a header section that the server has not seen before; the figures as in latency.lua.
dofile("benchmarks/latency.lua")

local count = 0

request = function()
  count = count + 1
  return wrk.format(nil, nil, {["Host"] = wrk.headers["Host"], ["X-Request-Id"] = tostring(count)})
end
