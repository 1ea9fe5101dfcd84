-- Count a model version's queued jobs per lane for one page of tenants, including those at their concurrency limit.
-- ARGV     model, version, offset, count (tenants to read of each rotation)
-- returns  {1 = there are more tenants, jobs in lane interactive, in lane bulk, suspects}
-- with events, free_slots, queues
local model, version, first, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local more, depths = 0, {0, 0, 0}
local parked = redis.call('ZRANGE', root .. ':parked', first, first + count - 1)
for number, lane in ipairs({'interactive', 'bulk', 'suspect'}) do
  local tenants = redis.call('LRANGE', rotation_key(model, version, lane), first, first + count - 1)
  for _, tenant in ipairs(tenants) do
    depths[number] = depths[number] + redis.call('ZCARD', queue_key(model, version, lane, tenant))
  end
  if #tenants == count or #parked == count then more = 1 end
  for _, tenant in ipairs(parked) do
    if redis.call('SISMEMBER', root .. ':parked:' .. tenant, model .. ' ' .. version .. ' ' .. lane) == 1 then
      depths[number] = depths[number] + redis.call('ZCARD', queue_key(model, version, lane, tenant))
    end
  end
end
return {more, unpack(depths)}
