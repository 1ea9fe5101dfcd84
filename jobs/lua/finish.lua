-- Write down how claimed jobs ended: a whole batch, in one step.
-- ARGV  worker, ttl_ms; then per job 6 words: id, attempt, state, body, stages, batch_size
-- gives per job 1 = written (also when it was written before by this same claim: safe to send again)
--               0 = refused: the job is no longer this claim's
local worker, ttl_ms = ARGV[1], ARGV[2]
local written = {}
for at = 3, #ARGV, 6 do
  local id, attempt, state, body, stages, batch_size = unpack(ARGV, at, at + 5)
  local job = facts_of(id, 'state', 'owner', 'attempts')
  local mine = job[2] == worker and job[3] == attempt
  if mine and job[1] == 'running' then
    local field = state == 'succeeded' and 'output' or 'error'
    conclude(id, state, ttl_ms, field, body, {'stages', stages, 'batch_size', batch_size})
  end
  written[#written + 1] = mine and (job[1] == 'running' or job[1] == state) and 1 or 0
end
notify()
return written
