-- Write down how claimed jobs ended, or that they are to be tried again: a whole batch, in one step.
-- ARGV  worker, how long what has ended is kept; then per job 8 words:
--       id, attempt, state ('queued' = try again), body, stages, batch_size, dead ('1' = keep it as a dead letter), after_ms
-- gives per job 1 = written (also when it was written before by this same claim: safe to send again)
--               0 = refused and counted: the job is no longer this claim's
-- with events, queues, outbox, completion
local worker, ends = ARGV[1], ends_at(2)
local written = {}

local function finish(id, attempt, state, body, stages, batch_size, dead, after_ms)
  local job = facts_of(id, unpack(FACTS))
  local mine = job[2] == worker and job[3] == attempt
  if mine and job[1] == 'running' and state == 'queued' then
    redis.call('HINCRBY', job_key(id), 'retries', 1)
    count('retried', job[4])
    requeue(id, tonumber(after_ms))
  elseif mine and job[1] == 'running' then
    local field = state == 'succeeded' and 'output' or 'error'
    conclude(id, state, ends, field, body, dead == '1', job, {'stages', stages, 'batch_size', batch_size})
  elseif job[1] ~= state or job[3] ~= attempt then
    count('late', job[4])
    return 0
  end
  return 1
end

for at = 6, #ARGV, 8 do written[#written + 1] = finish(unpack(ARGV, at, at + 7)) end
close()
return written
