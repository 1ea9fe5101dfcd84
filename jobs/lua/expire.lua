-- End jobs whose deadline has passed, whether they wait or run, and whether or not a worker lives.
-- ARGV  limit, ttl_ms
-- gives how many ended
local ended = 0
local due = redis.call('ZRANGEBYSCORE', root .. ':deadlines', '-inf', now_ms, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local job = facts_of(id, 'state', 'model', 'version', 'lane', 'tenant')
  if job[1] == 'queued' and job[2] and job[3] and job[4] and job[5] then unline(id, job[2], job[3], job[4], job[5]) end
  if job[1] == 'queued' or job[1] == 'running' then
    conclude(id, 'expired', ARGV[2], 'error', EXPIRED)
    ended = ended + 1
  else
    redis.call('ZREM', root .. ':deadlines', id)
  end
end
notify()
return ended
