-- Record an attempt of a delivery: end the delivery or schedule the next attempt, and update its endpoint's health.
-- ARGV     delivery, token, verdict ('delivered' | 'retry' | 'failed' = for good | 'stopped' = it cannot be read |
--          'lost' = the attempt was not made), the attempt as JSON, after_ms (until the next attempt), rest_ms (pause
--          that the endpoint asked for; '0' = none), slow ('1' | '0' | '' = unchanged), concurrency (attempts at a time
--          to a healthy endpoint), pause_after_ms (of failure), pause_ms, limit of ended deliveries that are kept,
--          ttl_ms of those, result_ttl_ms, bucket of the ms from the job's end to the first attempt ('' = it was not
--          the first), these ms, limit of open deliveries of the tenant (beyond it the oldest waiting ones fail)
-- returns  0 = the lease is lost, nothing was recorded | 1 = recorded | 2 = recorded, and the endpoint begins to fail
--          | 3 = recorded, and the endpoint is healthy again | 4 = recorded, and the endpoint is paused from now on
-- with events, outbox, outputs, delivery_log
local delivery, token, verdict, entry, after_ms, rest_ms, slow, concurrency, pause_after_ms, pause_ms, log_limit,
  ttl_ms, result_ttl_ms, bucket, first_ms, tenant_limit = unpack(ARGV)
local endpoint, current_token, job, tenant =
  unpack(redis.call('HMGET', delivery_key(delivery), 'endpoint', 'lease_token', 'job', 'tenant'))
if not endpoint or current_token ~= token then return 0 end
if redis.call('ZREM', deliveries_running_key(endpoint), delivery) == 0 then return 0 end
for _, lane in ipairs(LANES) do redis.call('ZREM', tenant_running_key(lane, tenant), delivery) end
local health, counts, result = endpoint_key(endpoint), root .. ':counts', 1

local function record_success()
  redis.call('HSET', health, 'concurrency', concurrency, 'succeeded', int_text(now_ms))
  if redis.call('HDEL', health, 'failing_since', 'paused_until', 'not_before', 'failures') > 0 then result = 3 end
end

local function record_failure()
  if redis.call('HSETNX', health, 'failing_since', int_text(now_ms)) == 1 then result = 2 end
  redis.call('HINCRBY', health, 'failures', 1)
  redis.call('HSET', health, 'concurrency', 1, 'failed', int_text(now_ms))
  if tonumber(rest_ms) > 0 then redis.call('HSET', health, 'not_before', int_text(now_ms + rest_ms)) end
  if now_ms - redis.call('HGET', health, 'failing_since') >= tonumber(pause_after_ms) then
    if redis.call('HSET', health, 'paused_until', int_text(now_ms + pause_ms)) == 1 then result = 4 end
  end
end

-- Let a job live longer, with its output.
local function extend_job(id, ttl_ms)
  local bytes, chunks, words, member = unpack(job_fields(id, 'output_bytes', 'output_chunks', 'state', 'kept_as'))
  local _, attempt = parse_state(words)
  redis.call('PEXPIRE', job_key(id), int_text(ttl_ms))
  expire_chunks(id, attempt, chunks or 0, ttl_ms)
  if bytes and member and redis.call('HEXISTS', root .. ':kept_output_bytes', member) == 1 then
    change_kept(member, 0 - bytes)
    redis.call('HSET', job_key(id), 'kept_as', keep_output(string.match(member, ' (.*)$'), tonumber(bytes), ttl_ms))
    commit_kept()
  end
end

if verdict ~= 'lost' then
  log_attempt(delivery, entry)
  redis.call('HINCRBY', counts, 'webhooks:attempts:' .. verdict, 1)
  if bucket ~= '' then
    redis.call('HINCRBY', counts, 'webhooks:first:' .. bucket, 1)
    redis.call('HINCRBY', counts, 'webhooks:first:sum', first_ms)
  end
  if slow == '1' then redis.call('HSET', health, 'slow', 1) end
  if slow == '0' then redis.call('HDEL', health, 'slow') end
end
if verdict == 'delivered' then
  record_success()
elseif verdict == 'retry' or verdict == 'failed' then
  record_failure()
end
if verdict == 'delivered' or verdict == 'failed' or verdict == 'stopped' then
  end_delivery(delivery, verdict == 'delivered' and 'delivered' or 'failed', log_limit, ttl_ms)
else
  redis.call('ZADD', outbox_key(endpoint), int_text(now_ms + after_ms), delivery)
  local keep_s = math.max(KEEP_S, math.ceil(after_ms / 1000) + 86400)  -- a schedule may have longer waits
  redis.call('EXPIRE', delivery_key(delivery), int_text(keep_s))
  renew_lists(tenant, endpoint, keep_s)
  -- The job that the payload links to stays as long as there are attempts.
  local job_ttl_ms = redis.call('PTTL', job_key(job))
  if job_ttl_ms > 0 and job_ttl_ms < after_ms + result_ttl_ms then
    extend_job(job, after_ms + result_ttl_ms)
  end
end
reschedule(endpoint)
if verdict == 'retry' then enforce_tenant_limit(tenant, tonumber(tenant_limit), log_limit, ttl_ms) end
return result
