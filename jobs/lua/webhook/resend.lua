-- Send a delivery again, from the start of the schedule, and at once; one that still waits is only hurried on. Its endpoint
-- is no longer paused: who sends again believes that it is back.
-- ARGV  delivery, tenant
-- gives 1 = it waits now (or is in the air) | 0 = unknown
-- with events, outbox
local delivery = ARGV[1]
local facts = redis.call('HMGET', delivery_key(delivery), 'endpoint', 'tenant', 'state', 'tries')
local endpoint = facts[1]
if not endpoint or facts[2] ~= ARGV[2] then return 0 end
if redis.call('ZSCORE', airborne_key(endpoint), delivery) then return 1 end
if facts[3] ~= 'waiting' then
  redis.call('HSET', delivery_key(delivery), 'state', 'waiting', 'tries_before_resend', facts[4] or 0)
  redis.call('HDEL', delivery_key(delivery), 'ended')
  redis.call('ZREM', root .. ':ended_deliveries:' .. facts[2], delivery)
  redis.call('ZADD', unended_key(facts[2]), whole(now_ms), delivery)
  redis.call('EXPIRE', delivery_key(delivery), KEPT_S)
  redis.call('HINCRBY', root .. ':counts', 'webhooks:posted', 1)
end
redis.call('HDEL', endpoint_key(endpoint), 'paused_until', 'not_before')
redis.call('HSET', endpoint_key(endpoint), 'tenant', facts[2])
keep_lists(facts[2], endpoint)
redis.call('ZADD', outbox_key(endpoint), whole(now_ms), delivery)
reschedule(endpoint)
redis.call('PUBLISH', 'jitney:outbox', '')
return 1
