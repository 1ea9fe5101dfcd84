-- Renew the leases of a worker's running jobs.
-- ARGV     worker, lease_ms; then per job: id, attempt
-- returns  per job 1 = renewed | 0 = lost (reclaimed, canceled or expired): its result would be refused
local results = {}
for at = 3, #ARGV, 2 do
  local id = ARGV[at]
  local job = job_fields(id, 'state', 'owner', 'attempts')
  local is_held = job[1] == 'running' and job[2] == ARGV[1] and job[3] == ARGV[at + 1]
  if is_held then redis.call('ZADD', root .. ':leases', 'XX', int_text(now_ms + ARGV[2]), id) end
  results[#results + 1] = is_held and 1 or 0
end
return results
