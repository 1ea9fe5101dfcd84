-- What every script shares; the loader puts it in front of each. A script gets the shard's root as KEYS[1] and builds
-- the shard's other keys from it: they all carry the root's hash tag, so they lie in one slot (jobs/keys.py lists them).
local root = KEYS[1]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local notices = {}  -- gateway → ids that became final in this script

local function job_key(id) return root .. ':job:' .. id end
local function line_key(model, version, lane, tenant)
  return root .. ':line:' .. model .. ':' .. version .. ':' .. lane .. ':' .. tenant
end
local function ring_key(model, version, lane) return root .. ':ring:' .. model .. ':' .. version .. ':' .. lane end
local function idle_key(model, version) return root .. ':idle:' .. model .. ':' .. version end
local function whole(number) return string.format('%.0f', number) end  -- a double as an integer's text

-- Some fields of a job; all of them missing where what lies there is no job.
local function facts_of(id, ...)
  local facts = redis.pcall('HMGET', job_key(id), ...)
  return facts.err and {} or facts
end

-- Wake one worker that waits for this model version. One that died without a word hears nothing: the next is tried.
local function wake(model, version)
  while true do
    local worker = redis.call('SPOP', idle_key(model, version))
    if not worker then return end
    if redis.call('PUBLISH', 'jitney:wake:' .. worker, model .. ' ' .. version) > 0 then return end
  end
end

-- Put an id into its line at its ticket's place; its tenant takes a turn in the ring again.
local function enline(id, ticket, model, version, lane, tenant)
  local line = line_key(model, version, lane, tenant)
  if redis.call('EXISTS', line) == 0 then redis.call('RPUSH', ring_key(model, version, lane), tenant) end
  redis.call('ZADD', line, ticket, id)
end

-- Take an id out of its line; a line that is empty leaves the ring.
local function unline(id, model, version, lane, tenant)
  local line = line_key(model, version, lane, tenant)
  redis.call('ZREM', line, id)
  if redis.call('EXISTS', line) == 0 then redis.call('LREM', ring_key(model, version, lane), 1, tenant) end
end

-- Count what is not final of a model: `jobs` and `bytes` more (or fewer).
local function weigh(model, jobs, bytes)
  local load = root .. ':load'
  if redis.call('HINCRBY', load, model .. ':jobs', jobs) <= 0 then
    redis.call('HDEL', load, model .. ':jobs', model .. ':bytes')
  else
    redis.call('HINCRBY', load, model .. ':bytes', bytes)
  end
end

-- End a job: `field` is 'output' or 'error' (or nil), `body` its JSON, `extra` more fields. The input goes, the result
-- stays for ttl_ms. Its watchers hear of it when the script calls notify().
local function conclude(id, state, ttl_ms, field, body, extra)
  local job = job_key(id)
  local words = {'state', state, 'finished', whole(now_us)}
  if field then words[5], words[6] = field, body end
  for _, word in ipairs(extra or {}) do words[#words + 1] = word end
  redis.call('HSET', job, unpack(words))
  local facts = redis.call('HMGET', job, 'model', 'watchers', 'size')
  if facts[1] and tonumber(facts[3]) then weigh(facts[1], -1, 0 - facts[3]) end  -- 0 - x: Lua's -0 is no integer to Redis
  redis.call('HDEL', job, 'input', 'watchers')
  redis.call('PEXPIRE', job, ttl_ms)
  redis.call('ZREM', root .. ':leases', id)
  redis.call('ZREM', root .. ':deadlines', id)
  redis.call('HINCRBY', root .. ':counts', 'finished:' .. (facts[1] or '?') .. ':' .. state, 1)
  for gateway in string.gmatch(facts[2] or '', '[^ ]+') do
    notices[gateway] = (notices[gateway] and notices[gateway] .. ' ' or '') .. id
  end
end

-- One notice per gateway, whatever the number of jobs.
local function notify()
  for gateway, ids in pairs(notices) do redis.call('PUBLISH', 'jitney:gateway:' .. gateway, ids) end
end

-- Let a gateway hear of the job's end, if that is still to come.
local function watch(id, gateway)
  local job = job_key(id)
  local state, watchers = unpack(redis.call('HMGET', job, 'state', 'watchers'))
  if state ~= 'queued' and state ~= 'running' then return end
  if not watchers then
    redis.call('HSET', job, 'watchers', gateway)
  elseif not string.find(' ' .. watchers .. ' ', ' ' .. gateway .. ' ', 1, true) then
    redis.call('HSET', job, 'watchers', watchers .. ' ' .. gateway)
  end
end

-- Give a running job back to its line.
local function requeue(id, model, version, lane, tenant, created)
  redis.call('ZREM', root .. ':leases', id)
  redis.call('HSET', job_key(id), 'state', 'queued')
  redis.call('HDEL', job_key(id), 'owner')
  enline(id, created, model, version, lane, tenant)
  wake(model, version)
end

local UNREADABLE = '{"code":"unreadable_job","message":"the record in the queue can not be read","status":422}'
local EXPIRED = '{"code":"deadline_exceeded","message":"the deadline passed before the job was done","status":504}'
