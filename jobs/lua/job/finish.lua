-- Write the outcomes of claimed jobs: end them, or schedule their retries.
-- ARGV     worker, retention (4 arguments); then per job 5 arguments: id, attempt, state, run ('<batch size> <stages>',
--          the stages in ms with commas), body. Behind the state 'queued', a retry, stands after_ms; behind 'failed'
--          may stand 'dead': keep it as a dead letter; behind 'succeeded' may stand the number of chunks in which the
--          output was written: then the body is its size in bytes.
-- returns  per job 1 = written, also if this claim has written it before | 0 = refused: this claim no longer holds the
--          job
-- Safe to send again. Refusals are counted as `late`, and delete the output's chunks. If chunks were lost, in a failover
-- for example, the job returns to its queue.
-- with events, free_slots, queues, outbox, outputs, completion
local worker, retention = ARGV[1], retention_at(2)
local results = {}
local MAX_LOST_OUTPUTS = 3  -- of one job, after which it fails
local LOST = '{"code":"output_not_stored","message":"Redis lost parts of the output before it was complete","status":507}'

local function model_of(head)
  local route = parse_head(head)
  return route and route.model
end

-- Return a job whose chunks were lost to its queue; it fails the third time.
local function run_again(id, job)
  if redis.call('HINCRBY', job_key(id), 'lost_outputs', 1) >= MAX_LOST_OUTPUTS then
    end_job(id, 'failed', retention, LOST, false, job)
  else
    count_event('retried', model_of(job[2]))
    requeue(id, 0)
  end
end

-- Write the outcome of a job that this claim holds.
local function write(id, attempt, state, more, run, body, job)
  if more == '' and state == 'succeeded' then
    end_job(id, state, retention, body, false, job, run)
  elseif state == 'succeeded' and has_chunks(id, attempt, more) then
    end_job(id, state, retention, body, false, job, run, more)
  elseif state == 'succeeded' then
    drop_chunks(id, attempt, more)
    run_again(id, job)
  elseif state == 'queued' then
    redis.call('HINCRBY', job_key(id), 'retries', 1)
    count_event('retried', model_of(job[2]))
    requeue(id, tonumber(more))
  else
    end_job(id, state, retention, body, more == 'dead', job, run)
  end
end

local function finish(id, attempt, state, run, body)
  local job = job_fields(id, unpack(JOB_FIELDS))
  local held = 'running ' .. attempt .. ' ' .. worker .. ' '
  local more = ''
  if state ~= 'succeeded' then state, more = string.match(state, '^(%l+) ?(.*)$') end
  if string.sub(job[1] or '', 1, #held) == held then
    write(id, attempt, state, more, run, body, job)
    return 1
  end
  local current, attempts = parse_state(job[1])
  if current == state and attempts == attempt then return 1 end
  count_event('late', model_of(job[2]))
  if state == 'succeeded' and more ~= '' then drop_chunks(id, attempt, more) end
  return 0
end

for at = 6, #ARGV, 5 do results[#results + 1] = finish(unpack(ARGV, at, at + 4)) end
commit()
return results
