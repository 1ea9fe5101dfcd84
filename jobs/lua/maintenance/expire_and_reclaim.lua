-- End jobs whose deadline has passed; return jobs whose lease has ended to their queues.
-- A job that has lost too many leases fails.
-- ARGV     limit (jobs), max_lost_leases, latest_ms (later than this, nothing is reclaimed), retention (4 arguments)
-- returns  {now_ms, jobs expired, jobs returned to their queues, jobs failed}
-- Any number of gateways may run it at any time: each job is expired or reclaimed once.
-- with events, free_slots, queues, outbox, outputs, completion
local max_lost, retention = tonumber(ARGV[2]), retention_at(4)
local expired, reclaimed, failed = 0, 0, 0
-- This call may have waited in the socket of a stopped server, during which no worker could renew its leases.
local may_reclaim = now_ms <= tonumber(ARGV[3])

local function expire(id, state)
  if state == 'queued' then dequeue(id) else notify_dropped(id) end
  end_job(id, 'expired', retention, EXPIRED)
  expired = expired + 1
end

local function fail(id, body)
  end_job(id, 'failed', retention, body, true)
  failed = failed + 1
end

local function reclaim(id, model)
  local lost = redis.call('HINCRBY', job_key(id), 'lost_leases', 1)
  if lost >= max_lost then
    local message = 'the job lost its worker ' .. lost .. ' times, which is the limit'
    return fail(id, error_body('too_many_attempts', message))
  end
  -- Two losses may be chance. After them the job runs isolated, as its own suspect group, to endanger no other.
  if lost >= 2 then redis.call('HSET', job_key(id), 'suspect_group', id) end
  if not requeue(id) then return fail(id, UNREADABLE) end
  count_event('reclaimed', model)
  reclaimed = reclaimed + 1
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', root .. ':timers', '-inf', now_ms, 'LIMIT', 0, ARGV[1])) do
  local words, head = unpack(job_fields(id, 'state', 'head'))
  local state = state_name(words)
  local route, _, deadline = parse_head(head)
  if state ~= 'queued' and state ~= 'running' then
    redis.call('ZREM', root .. ':timers', id)
  elseif deadline and tonumber(deadline) <= now_ms then
    expire(id, state)
  elseif state == 'queued' and deadline then
    redis.call('ZADD', root .. ':timers', deadline, id)
  elseif may_reclaim then
    reclaim(id, route and route.model)
  end
end
commit()
return {now_ms, expired, reclaimed, failed}
