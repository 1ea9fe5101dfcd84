-- Return jobs whose lease has ended to their queues; fail those that have lost too many leases.
-- ARGV     limit (jobs), max_lost_leases, latest_ms (later than this, nothing is reclaimed), retention (4 arguments)
-- returns  {now_ms, jobs returned to their queues, jobs failed}
-- Any number of gateways may run it at any time: each job is reclaimed once.
-- with events, free_slots, queues, outbox, outputs, completion
local reclaimed, failed, retention = 0, 0, retention_at(4)
-- This call may have waited in the socket of a stopped server, during which no worker could renew its leases.
if now_ms > tonumber(ARGV[3]) then return {now_ms, 0, 0} end
local due = redis.call('ZRANGEBYSCORE', root .. ':leases', '-inf', now_ms, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local job = job_fields(id, 'state', 'lost_leases', 'model')
  local lost = (tonumber(job[2]) or 0) + 1
  if job[1] ~= 'running' then
    redis.call('ZREM', root .. ':leases', id)
  elseif lost >= tonumber(ARGV[2]) then
    local message = 'the job lost its worker ' .. lost .. ' times, which is the limit'
    end_job(id, 'failed', retention, 'error', error_body('too_many_attempts', message), true)
    failed = failed + 1
  else
    redis.call('HSET', job_key(id), 'lost_leases', lost)
    -- Two losses may be chance. After them the job runs isolated, as its own suspect group, to endanger no other.
    if lost >= 2 then redis.call('HSET', job_key(id), 'suspect_group', id) end
    if requeue(id) then
      count_event('reclaimed', job[3])
      reclaimed = reclaimed + 1
    else
      end_job(id, 'failed', retention, 'error', UNREADABLE, true)
      failed = failed + 1
    end
  end
end
commit()
return {now_ms, reclaimed, failed}
