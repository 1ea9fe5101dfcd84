-- Send a delivery again, now and from the start of the retry schedule; one that still waits is only sent earlier.
-- ARGV     delivery, tenant
-- returns  1 = it is due now, or running | 0 = unknown
-- This also ends a pause of its endpoint, which the caller knows to be back.
-- with events, outbox
local delivery = ARGV[1]
local endpoint, tenant, state, tries =
  unpack(redis.call('HMGET', delivery_key(delivery), 'endpoint', 'tenant', 'state', 'tries'))
if not endpoint or tenant ~= ARGV[2] then return 0 end
if redis.call('ZSCORE', deliveries_running_key(endpoint), delivery) then return 1 end
if state ~= 'waiting' then
  redis.call('HSET', delivery_key(delivery), 'state', 'waiting', 'tries_before_resend', tries or 0)
  redis.call('HDEL', delivery_key(delivery), 'ended')
  redis.call('ZREM', root .. ':ended_deliveries:' .. tenant, delivery)
  redis.call('ZADD', open_deliveries_key(tenant), int_text(now_ms), delivery)
  redis.call('EXPIRE', delivery_key(delivery), KEEP_S)
  redis.call('HINCRBY', root .. ':counts', 'webhooks:posted', 1)
end
redis.call('HDEL', endpoint_key(endpoint), 'paused_until', 'not_before')
redis.call('HSET', endpoint_key(endpoint), 'tenant', tenant)
renew_lists(tenant, endpoint)
redis.call('ZADD', outbox_key(endpoint), int_text(now_ms), delivery)
reschedule(endpoint)
redis.call('PUBLISH', 'jitney:outbox', '')
return 1
