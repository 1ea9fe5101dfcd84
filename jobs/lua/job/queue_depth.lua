-- Count a model version's queued jobs per lane for one page of tenants, including those at their concurrency limit.
-- ARGV  model, version, offset, count (tenants of each ring that are looked at)
-- gives {1 = there are more tenants than that, waiting in lane interactive, in lane bulk, suspects}
-- with events, queues
local model, version, first, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local more, sums = 0, {0, 0, 0}
local parked = redis.call('ZRANGE', root .. ':parked', first, first + count - 1)
for nth, lane in ipairs({'interactive', 'bulk', 'suspect'}) do
  local ring = redis.call('LRANGE', ring_key(model, version, lane), first, first + count - 1)
  for _, tenant in ipairs(ring) do sums[nth] = sums[nth] + redis.call('ZCARD', line_key(model, version, lane, tenant)) end
  if #ring == count or #parked == count then more = 1 end
  for _, tenant in ipairs(parked) do
    if redis.call('SISMEMBER', root .. ':parked:' .. tenant, model .. ' ' .. version .. ' ' .. lane) == 1 then
      sums[nth] = sums[nth] + redis.call('ZCARD', line_key(model, version, lane, tenant))
    end
  end
end
return {more, unpack(sums)}
