-- Begin an attempt: read what is to be sent, and have the time that it may take count from now.
-- ARGV  delivery, flight, flight_ms
-- gives {url, tenant, event, tries, how many of them were before it was last sent anew, ms since it was made, output_bytes,
--        the job as it ended, headers of the receiver in JSON ('' = none), now_ms}
--       nothing where this flight is not the delivery's last one, or has been settled: then nothing may be sent
-- with events, outbox, delivery_log
local delivery = ARGV[1]
local facts = redis.call('HMGET', delivery_key(delivery), 'endpoint', 'lease_token', 'url', 'tenant', 'event', 'tries', 'tries_before_resend',
  'created', 'output_bytes', 'payload', 'headers')
if not facts[1] or not facts[4] or facts[2] ~= ARGV[2] or not redis.call('ZSCORE', airborne_key(facts[1]), delivery) then return nil end
redis.call('ZADD', airborne_key(facts[1]), 'XX', whole(now_ms + ARGV[3]), delivery)
for _, lane in ipairs(LANES) do
  redis.call('ZADD', flights_key(lane, facts[4]), 'XX', whole(now_ms + ARGV[3]), delivery)
  redis.call('PEXPIRE', flights_key(lane, facts[4]), ARGV[3])
end
local age_ms = now_ms - (tonumber(facts[8]) or now_ms)
return {facts[3], facts[4], facts[5], tonumber(facts[6]) or 0, tonumber(facts[7]) or 0, age_ms, tonumber(facts[9]) or 0, facts[10],
  facts[11] or '', now_ms}
