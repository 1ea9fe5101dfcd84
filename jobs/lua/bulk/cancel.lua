-- Have a bulk's steps end it. What has an outcome keeps it.
-- ARGV  bulk, tenant
-- gives 'unknown' (also another tenant's) | 'final' | 'cancelling'
-- with events, queues, outbox, completion, bulk
local bulk = ARGV[1]
local facts = redis.call('HMGET', bulk_key(bulk), 'tenant', 'open', 'status')
if facts[1] ~= ARGV[2] then return 'unknown' end
if not facts[2] then return 'final' end
if facts[3] ~= 'cancelling' then
  redis.call('HSET', bulk_key(bulk), 'status', 'cancelling', 'cancelling_ms', whole(now_ms))
  if hurry(bulk, facts[1]) then redis.call('PUBLISH', 'jitney:outbox', '') end
end
return 'cancelling'
