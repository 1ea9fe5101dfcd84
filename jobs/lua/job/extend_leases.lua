-- Renew the leases of a worker's running jobs.
-- ARGV     worker, lease_ms; then per job: id, attempt
-- returns  per job 1 = renewed | 0 = lost (reclaimed, canceled or expired): its result would be refused
-- with events, free_slots, queues
local results = {}
for at = 3, #ARGV, 2 do
  local id = ARGV[at]
  local words, head = unpack(job_fields(id, 'state', 'head'))
  local state, attempts, owner = parse_state(words)
  local is_held = state == 'running' and owner == ARGV[1] and attempts == ARGV[at + 1]
  local _, _, deadline = parse_head(head)
  if is_held and deadline then redis.call('ZADD', root .. ':timers', 'XX', timer_of(now_ms + ARGV[2], deadline), id) end
  results[#results + 1] = is_held and 1 or 0
end
return results
