-- Write down how an attempt went.
-- ARGV  delivery, flight, verdict ('delivered' | 'retry' | 'failed' for good | 'lost': it was not made), the attempt as JSON,
--       after_ms (until the next), rest_ms (the endpoint asked for quiet; '0' = no), slow ('1' | '0' | '' = as it was),
--       room (attempts at a time, to an endpoint that is well), pause_after_ms (of failure), pause_ms, log (deliveries
--       of a tenant that have ended and are kept) and ttl_ms (for how long), result_ttl_ms, bucket (of the ms from the job's
--       end to the first attempt; '' = it was not the first), and these ms
-- gives 0 = refused: this flight is not the delivery's last one, or has been settled
--       1 = written | 2 = written, and the endpoint begins to fail | 3 = and it is well again | 4 = and it is paused now
-- with events, outbox, delivery_log
local delivery, flight, verdict, entry, after_ms, rest_ms, slow, room, pause_after_ms, pause_ms, log, ttl_ms, result_ttl_ms,
  bucket, first_ms = unpack(ARGV)
local facts = redis.call('HMGET', delivery_key(delivery), 'endpoint', 'lease_token', 'job', 'tenant')
local endpoint, tenant = facts[1], facts[4]
if not endpoint or facts[2] ~= flight or redis.call('ZREM', airborne_key(endpoint), delivery) == 0 then return 0 end
for _, lane in ipairs(LANES) do redis.call('ZREM', flights_key(lane, tenant), delivery) end
local its_key, counts, news = endpoint_key(endpoint), root .. ':counts', 1

local function is_well()
  redis.call('HSET', its_key, 'concurrency', room, 'succeeded', whole(now_ms))
  if redis.call('HDEL', its_key, 'failing_since', 'paused_until', 'not_before', 'failures') > 0 then news = 3 end
end

local function fails()
  if redis.call('HSETNX', its_key, 'failing_since', whole(now_ms)) == 1 then news = 2 end
  redis.call('HINCRBY', its_key, 'failures', 1)
  redis.call('HSET', its_key, 'concurrency', 1, 'failed', whole(now_ms))
  if tonumber(rest_ms) > 0 then redis.call('HSET', its_key, 'not_before', whole(now_ms + rest_ms)) end
  if now_ms - redis.call('HGET', its_key, 'failing_since') >= tonumber(pause_after_ms) then
    if redis.call('HSET', its_key, 'paused_until', whole(now_ms + pause_ms)) == 1 then news = 4 end
  end
end

if verdict ~= 'lost' then
  note(delivery, entry)
  redis.call('HINCRBY', counts, 'webhooks:attempts:' .. verdict, 1)
  if bucket ~= '' then
    redis.call('HINCRBY', counts, 'webhooks:first:' .. bucket, 1)
    redis.call('HINCRBY', counts, 'webhooks:first:sum', first_ms)
  end
  if slow == '1' then redis.call('HSET', its_key, 'slow', 1) elseif slow == '0' then redis.call('HDEL', its_key, 'slow') end
end
if verdict == 'delivered' then is_well() elseif verdict == 'retry' or verdict == 'failed' then fails() end
if verdict == 'delivered' or verdict == 'failed' or verdict == 'stopped' then
  end_delivery(delivery, verdict == 'delivered' and 'delivered' or 'failed', log, ttl_ms)
else
  redis.call('ZADD', outbox_key(endpoint), whole(now_ms + after_ms), delivery)
  local kept_s = math.max(KEPT_S, math.ceil(after_ms / 1000) + 86400)  -- a schedule may have waits longer than that
  redis.call('EXPIRE', delivery_key(delivery), whole(kept_s))
  keep_lists(tenant, endpoint, kept_s)
  -- What the link in it leads to stays as long as there are attempts.
  local kept_ms = redis.call('PTTL', job_key(facts[3]))
  if kept_ms > 0 and kept_ms < after_ms + result_ttl_ms then redis.call('PEXPIRE', job_key(facts[3]), whole(after_ms + result_ttl_ms)) end
end
reschedule(endpoint)
return news
