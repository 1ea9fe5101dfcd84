-- Return claimed jobs to their queues unrun, for a worker that stops.
-- ARGV     worker; then per job: id, attempt
-- returns  the number of jobs that were returned
-- with events, free_slots, queues
local released = 0
for at = 2, #ARGV, 2 do
  local id = ARGV[at]
  local state, attempts, owner = parse_state(job_fields(id, 'state')[1])
  local is_held = state == 'running' and owner == ARGV[1] and attempts == ARGV[at + 1]
  if is_held and requeue(id) then released = released + 1 end
end
return released
