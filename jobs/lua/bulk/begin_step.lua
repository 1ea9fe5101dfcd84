-- Read a bulk job for its step, and renew the step's lease.
-- ARGV     bulk, token, lease_ms
-- returns  {now_ms, outcomes that are not yet stored, shares, then fields and values of its record}; nil if the lease
--          is lost. shares = by how much this bulk job's part of common limits is divided: the number of tenants with
--          open bulk jobs, times the number of open bulk jobs of this tenant
-- with events, free_slots, queues, outbox, outputs, completion, bulk
local bulk = ARGV[1]
if not renew_lease(bulk, ARGV[2], ARGV[3]) then return nil end
local record, owner = redis.call('HGETALL', bulk_key(bulk)), redis.call('HGET', bulk_key(bulk), 'tenant')
local tenants, running = redis.call('ZCARD', root .. ':bulk_due'), running_steps()
for tenant in pairs(running) do
  if redis.call('EXISTS', root .. ':bulk_due:' .. tenant) == 0 then tenants = tenants + 1 end
end
local shares = tenants * (redis.call('ZCARD', root .. ':bulk_due:' .. owner) + (running[owner] or 0))
return {now_ms, redis.call('LLEN', root .. ':bulk_outcomes:' .. bulk), shares, unpack(record)}
