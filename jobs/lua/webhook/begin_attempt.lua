-- Read a delivery for an attempt, and renew its lease from now on.
-- ARGV     delivery, token, lease_ms
-- returns  {url, tenant, event, tries, tries before the delivery was last sent again, ms since its creation,
--          output_bytes, payload, receiver's headers in JSON ('' = none), now_ms}; nil if the lease is lost: then
--          nothing may be sent
-- with events, outbox, delivery_log
local delivery = ARGV[1]
local endpoint, token, url, tenant, event, tries, tries_before, created, output_bytes, payload, headers =
  unpack(redis.call('HMGET', delivery_key(delivery), 'endpoint', 'lease_token', 'url', 'tenant', 'event', 'tries',
    'tries_before_resend', 'created', 'output_bytes', 'payload', 'headers'))
if not endpoint or not tenant or token ~= ARGV[2] then return nil end
if not redis.call('ZSCORE', deliveries_running_key(endpoint), delivery) then return nil end
redis.call('ZADD', deliveries_running_key(endpoint), 'XX', int_text(now_ms + ARGV[3]), delivery)
for _, lane in ipairs(LANES) do
  redis.call('ZADD', tenant_running_key(lane, tenant), 'XX', int_text(now_ms + ARGV[3]), delivery)
  redis.call('PEXPIRE', tenant_running_key(lane, tenant), ARGV[3])
end
local age_ms = now_ms - (tonumber(created) or now_ms)
return {url, tenant, event, tonumber(tries) or 0, tonumber(tries_before) or 0, age_ms,
  tonumber(output_bytes) or 0, payload, headers or '', now_ms}
