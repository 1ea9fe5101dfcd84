-- A worker process has died, as whoever kept it saw: what it held goes back at once. Those it had in hands are suspects:
-- they are parted into two cells, and each cell is tried apart from all other jobs, until who kills is alone.
-- ARGV  worker, max_kills, alone ('1' = it had a single job in hands), rest_ms, how long what has ended is kept, rank (leases
--       below this rank are still to be looked at; '' = all), limit (how many of them are looked at now); then per suspect: id,
--       attempt
-- gives {how many went back to their lines, how many of them as suspects, how many failed as poison, rank for the next call; 0 =
--       all leases have been looked at}
-- The leases are looked at from the last to the first: what others claim or extend meanwhile moves to the end, and hides none.
-- with events, queues, outbox, completion
local worker, rest_ms, ends = ARGV[1], ARGV[4], ends_at(5)
local suspects, killers, back, failed = {}, {}, 0, 0

-- Another killed run; true where that is the verdict: it was alone, and not for the first time.
local function is_poison(id)
  local kills = redis.call('HINCRBY', job_key(id), 'kills', 1)
  if ARGV[3] ~= '1' or kills < tonumber(ARGV[2]) then return false end
  conclude(id, 'failed', ends, 'error', failure('poison', 'a worker died with it in ' .. kills .. ' runs, at last with it alone'), true)
  return true
end

-- Whose trial killed its worker: for a while, so that it can come back, no other worker of the model risks its life.
local function rest(id, model, version)
  local trial_key = trial_key_of(model, version)
  local tried = redis.call('GET', trial_key)
  if tried and string.find(' ' .. tried .. ' ', ' ' .. id .. ' ', 1, true) then
    redis.call('SET', trial_key, RESTING, 'PX', rest_ms)
  end
end

-- Its job's attempts, model and version, where this worker still runs it.
local function held(id)
  local job = facts_of(id, 'state', 'owner', 'attempts', 'model', 'version')
  return job[1] == 'running' and job[2] == worker and {job[3], job[4], job[5]} or nil
end

for at = 11, #ARGV, 2 do
  local id = ARGV[at]
  local job = held(id)
  if job and job[1] == ARGV[at + 1] then
    count('reclaimed', job[2])
    suspects[#suspects + 1] = id
    killers[(job[2] or '?') .. ':' .. (job[3] or '?')] = true
    rest(id, job[2], job[3])
  end
end
for which in pairs(killers) do count('kills', which) end  -- once for a death, however many rode
for nth, id in ipairs(suspects) do
  if is_poison(id) then
    failed = failed + 1
  else
    redis.call('HSET', job_key(id), 'suspect_group', worker .. (nth <= #suspects / 2 and 'a' or 'b'))
    requeue(id)
  end
end
local upper = tonumber(ARGV[9]) or redis.call('ZCARD', root .. ':leases')
local lower = math.max(0, upper - ARGV[10])
for _, id in ipairs(upper > 0 and redis.call('ZRANGE', root .. ':leases', lower, upper - 1) or {}) do
  local job = held(id)
  if job then
    count('reclaimed', job[2])
    if requeue(id) then back = back + 1 end
  end
end
close()
return {back, #suspects - failed, failed, lower}
