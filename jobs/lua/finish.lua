-- Write down how claimed jobs ended, or that they are to be tried again: a whole batch, in one step.
-- ARGV  worker, how long what has ended is kept; then per job 8 words:
--       id, attempt, state ('queued' = try again), body, stages, batch_size, dead ('1' = keep it as a dead letter), after_ms
-- gives per job 1 = written (also when it was written before by this same claim: safe to send again)
--               0 = refused and counted: the job is no longer this claim's
local worker, ends = ARGV[1], ends_at(2)
local written = {}

local function finish(id, attempt, state, body, stages, batch_size, dead, after_ms)
  local job = facts_of(id, 'state', 'owner', 'attempts', 'model', 'watchers', 'size', 'payer', 'seat', 'log')
  local mine = job[2] == worker and job[3] == attempt
  if mine and job[1] == 'running' and state == 'queued' then
    redis.call('HINCRBY', job_key(id), 'retries', 1)
    count('retried', job[4])
    requeue(id, tonumber(after_ms))
  elseif mine and job[1] == 'running' then
    local field = state == 'succeeded' and 'output' or 'error'
    local extra, facts = {'stages', stages, 'batch_size', batch_size}, {job[4], job[5], job[6], job[7], job[8], job[9]}
    conclude(id, state, ends, field, body, extra, dead == '1', facts)
  elseif job[1] ~= state or job[3] ~= attempt then
    count('late', job[4])
    return 0
  end
  return 1
end

for at = 6, #ARGV, 8 do written[#written + 1] = finish(unpack(ARGV, at, at + 7)) end
close()
return written
