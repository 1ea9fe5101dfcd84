-- Give claimed jobs back to their lines unrun (a worker that drains and has no time left).
-- ARGV  worker; then per job: id, attempt
-- gives how many went back
-- with events, queues
local back = 0
for at = 2, #ARGV, 2 do
  local id = ARGV[at]
  local job = facts_of(id, 'state', 'owner', 'attempts')
  if job[1] == 'running' and job[2] == ARGV[1] and job[3] == ARGV[at + 1] and requeue(id) then back = back + 1 end
end
return back
