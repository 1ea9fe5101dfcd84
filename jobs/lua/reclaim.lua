-- Take back jobs whose lease has ended: their worker is dead, or gone for too long.
-- ARGV  limit, max_losses, ttl_ms
-- gives {how many went back to their lines, how many failed for good}
-- Any number of gateways may run it at any time: each job moves once.
local back, failed = 0, 0
local due = redis.call('ZRANGEBYSCORE', root .. ':leases', '-inf', now_ms, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local job = facts_of(id, 'state', 'lost', 'model', 'version', 'lane', 'tenant', 'created')
  local lost = (tonumber(job[2]) or 0) + 1
  if job[1] ~= 'running' then
    redis.call('ZREM', root .. ':leases', id)
  elseif not (job[3] and job[4] and job[5] and job[6] and tonumber(job[7])) then
    conclude(id, 'failed', ARGV[3], 'error', UNREADABLE)
    failed = failed + 1
  elseif lost >= tonumber(ARGV[2]) then
    local message = 'its worker was lost ' .. lost .. ' times, the most that is allowed'
    conclude(id, 'failed', ARGV[3], 'error', cjson.encode({code = 'too_many_attempts', message = message, status = 422}))
    failed = failed + 1
  else
    redis.call('HSET', job_key(id), 'lost', lost)
    requeue(id, job[3], job[4], job[5], job[6], job[7])
    back = back + 1
  end
end
notify()
return {back, failed}
