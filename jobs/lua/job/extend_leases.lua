-- Renew leases.
-- ARGV  worker, lease_ms; then per job: id, attempt
-- gives per job 1 = still this worker's, 0 = lost (reclaimed, canceled, expired): its result would be refused
local held = {}
for at = 3, #ARGV, 2 do
  local id = ARGV[at]
  local job = facts_of(id, 'state', 'owner', 'attempts')
  local mine = job[1] == 'running' and job[2] == ARGV[1] and job[3] == ARGV[at + 1]
  if mine then redis.call('ZADD', root .. ':leases', 'XX', whole(now_ms + ARGV[2]), id) end
  held[#held + 1] = mine and 1 or 0
end
return held
