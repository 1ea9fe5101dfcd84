-- Return a dead worker's jobs to their queues; isolate those it was executing, or fail one as poison.
-- ARGV     worker, max_kills, alone ('1' = it was executing a single job), cooldown_ms, retention (4 arguments), rank
--          (timers below this rank are still to be checked; '' = all that its leases may have), limit (timers to check
--          now), lease_ms of the worker; then per suspect, a job that it was executing: id, attempt
-- returns  {jobs returned to their queues, jobs returned as suspects, jobs failed as poison, rank for the next call; 0
--          = all are checked}
-- The suspects form two suspect groups. Each group runs isolated and, if it kills its worker again, is halved again,
-- until the poison job is alone. Timers are checked from the last to the first: those that are claimed or extended
-- meanwhile move to the end, and hide none.
-- with events, free_slots, queues, outbox, outputs, completion
local worker, cooldown_ms, retention = ARGV[1], ARGV[4], retention_at(5)
local suspects, model_versions, released, failed = {}, {}, 0, 0

-- Count another death of a worker with this job. Fail it as poison and return true if the job was alone and has reached
-- max_kills.
local function is_poison(id)
  local kills = redis.call('HINCRBY', job_key(id), 'kills', 1)
  if ARGV[3] ~= '1' or kills < tonumber(ARGV[2]) then return false end
  local message = 'a worker died in ' .. kills .. ' runs of the job, in the last one without other jobs'
  end_job(id, 'failed', retention, error_body('poison', message), true)
  return true
end

-- Start the cooldown if the job was in an isolated run: meanwhile no other worker of the model version runs suspects,
-- so that this one can restart.
local function start_cooldown(id, model, version)
  local key = isolation_key(model, version)
  local ids = redis.call('GET', key)
  if ids and string.find(' ' .. ids .. ' ', ' ' .. id .. ' ', 1, true) then
    redis.call('SET', key, COOLDOWN, 'PX', cooldown_ms)
  end
end

-- Return {attempts, model, version} of a job that this worker runs; nil for any other.
local function find_running(id)
  local words, head = unpack(job_fields(id, 'state', 'head'))
  local state, attempts, owner = parse_state(words)
  local route = parse_head(head) or {}
  return state == 'running' and owner == worker and {attempts, route.model, route.version} or nil
end

for at = 12, #ARGV, 2 do
  local id = ARGV[at]
  local job = find_running(id)
  if job and job[1] == ARGV[at + 1] then
    count_event('reclaimed', job[2])
    suspects[#suspects + 1] = id
    model_versions[(job[2] or '?') .. ':' .. (job[3] or '?')] = true
    start_cooldown(id, job[2], job[3])
  end
end
for model_version in pairs(model_versions) do count_event('kills', model_version) end  -- once per death
for number, id in ipairs(suspects) do
  if is_poison(id) then
    failed = failed + 1
  else
    redis.call('HSET', job_key(id), 'suspect_group', worker .. (number <= #suspects / 2 and 'a' or 'b'))
    requeue(id)
  end
end
local upper = tonumber(ARGV[9]) or redis.call('ZCOUNT', root .. ':timers', '-inf', int_text(now_ms + ARGV[11]))
local lower = math.max(0, upper - ARGV[10])
for _, id in ipairs(upper > 0 and redis.call('ZRANGE', root .. ':timers', lower, upper - 1) or {}) do
  local job = find_running(id)
  if job then
    count_event('reclaimed', job[2])
    if requeue(id) then released = released + 1 end
  end
end
commit()
return {released, #suspects - failed, failed, lower}
