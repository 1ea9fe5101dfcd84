-- Write the outcomes of claimed jobs: end them, or schedule their retries.
-- ARGV     worker, retention (4 arguments); then per job 9 arguments: id, attempt, state ('queued' = retry), body,
--          stages, batch_size, dead ('1' = keep it as a dead letter), after_ms (until the retry), chunks (number of
--          chunks in which the output was written; then the body is its size in bytes)
-- returns  per job 1 = written, also if this claim has written it before | 0 = refused: this claim no longer holds the
--          job
-- Safe to send again. Refusals are counted as `late`, and delete the output's chunks. If chunks were lost, in a failover
-- for example, the job returns to its queue.
-- with events, free_slots, queues, outbox, outputs, completion
local worker, retention = ARGV[1], retention_at(2)
local results = {}
local MAX_LOST_OUTPUTS = 3  -- of one job, after which it fails
local LOST = '{"code":"output_not_stored","message":"Redis lost parts of the output before it was complete","status":507}'

-- Return a job whose chunks were lost to its queue; it fails the third time.
local function run_again(id, job)
  if redis.call('HINCRBY', job_key(id), 'lost_outputs', 1) >= MAX_LOST_OUTPUTS then
    end_job(id, 'failed', retention, 'error', LOST, false, job)
  else
    count_event('retried', job[4])
    requeue(id, 0)
  end
end

local function finish(id, attempt, state, body, stages, batch_size, dead, after_ms, chunks)
  local job = job_fields(id, unpack(JOB_FIELDS))
  local is_own = job[2] == worker and job[3] == attempt
  if is_own and job[1] == 'running' and chunks ~= '0' and not has_chunks(id, attempt, chunks) then
    drop_chunks(id, attempt, chunks)
    run_again(id, job)
  elseif is_own and job[1] == 'running' and state == 'queued' then
    redis.call('HINCRBY', job_key(id), 'retries', 1)
    count_event('retried', job[4])
    requeue(id, tonumber(after_ms))
  elseif is_own and job[1] == 'running' then
    local field = state == 'succeeded' and 'output' or 'error'
    end_job(id, state, retention, field, body, dead == '1', job, {'stages', stages, 'batch_size', batch_size},
      chunks ~= '0' and chunks)
  elseif job[1] ~= state or job[3] ~= attempt then
    count_event('late', job[4])
    drop_chunks(id, attempt, chunks)
    return 0
  end
  return 1
end

for at = 6, #ARGV, 9 do results[#results + 1] = finish(unpack(ARGV, at, at + 8)) end
commit()
return results
