-- Write the outcomes of claimed jobs: end them, or schedule their retries.
-- ARGV     worker, retention (4 arguments); then per job 8 arguments: id, attempt, state ('queued' = retry), body,
--          stages, batch_size, dead ('1' = keep it as a dead letter), after_ms (until the retry)
-- returns  per job 1 = written, also if this claim has written it before | 0 = refused: this claim no longer holds the
--          job
-- Safe to send again. Refusals are counted as `late`.
-- with events, free_slots, queues, outbox, completion
local worker, retention = ARGV[1], retention_at(2)
local results = {}

local function finish(id, attempt, state, body, stages, batch_size, dead, after_ms)
  local job = job_fields(id, unpack(JOB_FIELDS))
  local is_own = job[2] == worker and job[3] == attempt
  if is_own and job[1] == 'running' and state == 'queued' then
    redis.call('HINCRBY', job_key(id), 'retries', 1)
    count_event('retried', job[4])
    requeue(id, tonumber(after_ms))
  elseif is_own and job[1] == 'running' then
    local field = state == 'succeeded' and 'output' or 'error'
    end_job(id, state, retention, field, body, dead == '1', job, {'stages', stages, 'batch_size', batch_size})
  elseif job[1] ~= state or job[3] ~= attempt then
    count_event('late', job[4])
    return 0
  end
  return 1
end

for at = 6, #ARGV, 8 do results[#results + 1] = finish(unpack(ARGV, at, at + 7)) end
commit()
return results
