-- Return claimed jobs to their queues unrun, for a worker that stops.
-- ARGV     worker; then per job: id, attempt
-- returns  the number of jobs that were returned
-- with events, free_slots, queues
local released = 0
for at = 2, #ARGV, 2 do
  local id = ARGV[at]
  local job = job_fields(id, 'state', 'owner', 'attempts')
  local is_held = job[1] == 'running' and job[2] == ARGV[1] and job[3] == ARGV[at + 1]
  if is_held and requeue(id) then released = released + 1 end
end
return released
