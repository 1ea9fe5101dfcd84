-- Cancel a bulk job: its next steps end it. Lines that have an outcome keep it.
-- ARGV     bulk, tenant
-- returns  'unknown' (also for another tenant's) | 'final' | 'cancelling'
-- with events, free_slots, queues, outbox, outputs, completion, bulk
local bulk = ARGV[1]
local owner, is_open, status = unpack(redis.call('HMGET', bulk_key(bulk), 'tenant', 'open', 'status'))
if owner ~= ARGV[2] then return 'unknown' end
if not is_open then return 'final' end
if status ~= 'cancelling' then
  redis.call('HSET', bulk_key(bulk), 'status', 'cancelling', 'cancelling_ms', int_text(now_ms))
  if make_step_due(bulk, owner) then redis.call('PUBLISH', 'jitney:outbox', '') end
end
return 'cancelling'
