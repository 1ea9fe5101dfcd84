-- A worker process has died, as whoever kept it saw: what it held goes back at once. Those it had in hands are suspects:
-- they are parted into two cells, and each cell is tried apart from all other jobs, until who kills is alone.
-- ARGV  worker, max_kills, alone ('1' = it had a single job in hands), rest_ms, how long what has ended is kept; then per
--       suspect: id, attempt
-- gives {how many went back to their lines, how many of them as suspects, how many failed as poison}
-- with events, lines, outbox, ends
local worker, rest_ms, ends = ARGV[1], ARGV[4], ends_at(5)
local attempts, suspects, killers, back, failed = {}, {}, {}, 0, 0
for at = 9, #ARGV, 2 do attempts[ARGV[at]] = ARGV[at + 1] end

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

for _, id in ipairs(redis.call('ZRANGE', root .. ':leases', 0, -1)) do
  local job = facts_of(id, 'state', 'owner', 'attempts', 'model', 'version')
  if job[1] == 'running' and job[2] == worker then
    count('reclaimed', job[4])
    if attempts[id] == job[3] then
      suspects[#suspects + 1] = id
      killers[(job[4] or '?') .. ':' .. (job[5] or '?')] = true
      rest(id, job[4], job[5])
    elseif requeue(id) then
      back = back + 1
    end
  end
end
for which in pairs(killers) do count('kills', which) end  -- once for a death, however many rode
for nth, id in ipairs(suspects) do
  if is_poison(id) then
    failed = failed + 1
  else
    redis.call('HSET', job_key(id), 'cell', worker .. (nth <= #suspects / 2 and 'a' or 'b'))
    requeue(id)
  end
end
close()
return {back, #suspects - failed, failed}
