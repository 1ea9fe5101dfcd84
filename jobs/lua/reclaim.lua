-- Take back jobs whose lease has ended: their worker is dead, or gone for too long.
-- ARGV  limit, max_attempts, ttl_ms
-- gives {how many went back to their lines, how many failed for good}
-- Any number of gateways may run it at any time: each job moves once.
local back, failed = 0, 0
local due = redis.call('ZRANGEBYSCORE', root .. ':leases', '-inf', now_ms, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local job = redis.call('HMGET', job_key(id), 'state', 'attempts', 'model', 'version', 'lane', 'tenant', 'created')
  if job[1] ~= 'running' then
    redis.call('ZREM', root .. ':leases', id)
  elseif tonumber(job[2]) >= tonumber(ARGV[2]) then
    local message = 'its worker was lost ' .. job[2] .. ' times, the most that is allowed'
    conclude(id, 'failed', ARGV[3], 'error', cjson.encode({code = 'too_many_attempts', message = message, status = 422}))
    failed = failed + 1
  else
    requeue(id, job[3], job[4], job[5], job[6], job[7])
    back = back + 1
  end
end
notify()
return {back, failed}
