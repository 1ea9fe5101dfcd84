-- Take back jobs whose lease has ended: their worker is gone, and nobody has said how.
-- ARGV  limit, max_losses, latest_ms (nothing is taken back if the clock has jumped beyond), how long what has ended is kept
-- gives {now_ms, how many went back to their lines, how many failed for good}
-- Any number of gateways may run it at any time: each job moves once.
-- with events, queues, outbox, completion
local back, failed, ends = 0, 0, ends_at(4)
-- This very script may have lain in the socket of a server that stood still: then no worker could renew its leases.
if now_ms > tonumber(ARGV[3]) then return {now_ms, 0, 0} end
local due = redis.call('ZRANGEBYSCORE', root .. ':leases', '-inf', now_ms, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local job = facts_of(id, 'state', 'lost_leases', 'model')
  local lost = (tonumber(job[2]) or 0) + 1
  if job[1] ~= 'running' then
    redis.call('ZREM', root .. ':leases', id)
  elseif lost >= tonumber(ARGV[2]) then
    local message = 'its worker was lost ' .. lost .. ' times, the most that is allowed'
    conclude(id, 'failed', ends, 'error', failure('too_many_attempts', message), true)
    failed = failed + 1
  else
    redis.call('HSET', job_key(id), 'lost_leases', lost)
    -- Twice may be chance. From then on it rides alone, so that nobody else is lost with it.
    if lost >= 2 then redis.call('HSET', job_key(id), 'suspect_group', id) end
    if requeue(id) then
      count('reclaimed', job[3])
      back = back + 1
    else
      conclude(id, 'failed', ends, 'error', UNREADABLE, true)
      failed = failed + 1
    end
  end
end
close()
return {now_ms, back, failed}
