-- Read a bulk for its step.
-- ARGV  bulk, flight, flight_ms
-- gives {now_ms, outcomes in its log, shares, its record's fields and values ...}; shares: what all bulks share is divided by so
--       many: by the tenants that have open bulks, and that by those of this bulk's tenant
--       nothing where this flight is not the bulk's last one, or has landed
-- with events, queues, outbox, completion, bulk
local bulk = ARGV[1]
if not flies(bulk, ARGV[2], ARGV[3]) then return nil end
local record, own = redis.call('HGETALL', bulk_key(bulk)), redis.call('HGET', bulk_key(bulk), 'tenant')
local tenants, under_way = redis.call('ZCARD', root .. ':bulk_due'), steps_under_way()
for tenant in pairs(under_way) do
  if redis.call('EXISTS', root .. ':bulk_due:' .. tenant) == 0 then tenants = tenants + 1 end
end
local shares = tenants * (redis.call('ZCARD', root .. ':bulk_due:' .. own) + (under_way[own] or 0))
return {now_ms, redis.call('LLEN', root .. ':bulk_outcomes:' .. bulk), shares, unpack(record)}
