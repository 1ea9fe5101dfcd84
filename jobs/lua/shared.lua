-- What every script shares; the loader puts it in front of each. A script gets the shard's root as KEYS[1] and builds
-- the shard's other keys from it: they all carry the root's hash tag, so they lie in one slot (jobs/keys.py lists them).
local root = KEYS[1]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
-- What a script gathers, for close() to write down at once: a batch's jobs share most of their keys.
local notices = {}  -- gateway → jobs that became final, each {id, fields as read}
local ended = {}  -- their ids: they leave the leases and the deadlines
local counted = {}  -- field of counts → how often
local weighed = {}  -- model → {jobs, bytes} that are open no more, or anew

local function job_key(id) return root .. ':job:' .. id end
local function line_key(model, version, lane, tenant)
  return root .. ':line:' .. model .. ':' .. version .. ':' .. lane .. ':' .. tenant
end
local function ring_key(model, version, lane) return root .. ':ring:' .. model .. ':' .. version .. ':' .. lane end
local function idle_key(model, version) return root .. ':idle:' .. model .. ':' .. version end
local function trial_key_of(model, version) return root .. ':trial:' .. (model or '') .. ':' .. (version or '') end
local function whole(number) return string.format('%.0f', number) end  -- a double as an integer's text

-- Some fields of a job; all of them missing where what lies there is no job.
local function facts_of(id, ...)
  local facts = redis.pcall('HMGET', job_key(id), ...)
  return facts.err and {} or facts
end

-- Wake one worker that waits for this model version; false where none does. One that died without a word hears nothing: the
-- next is tried.
local function wake(model, version)
  while true do
    local worker = redis.call('SPOP', idle_key(model, version))
    if not worker then return false end
    if redis.call('PUBLISH', 'jitney:wake:' .. worker, model .. ' ' .. version) > 0 then return true end
  end
end

-- Let a running job's worker hear that it need not finish it.
local function dismiss(id)
  local owner = facts_of(id, 'owner')[1]
  if owner then redis.call('PUBLISH', 'jitney:wake:' .. owner, '-' .. id) end
end

-- Put an id into its line at its ticket's place; its tenant takes a turn in the ring again.
local function enline(id, ticket, model, version, lane, tenant)
  local line = line_key(model, version, lane, tenant)
  if redis.call('EXISTS', line) == 0 then redis.call('RPUSH', ring_key(model, version, lane), tenant) end
  redis.call('ZADD', line, ticket, id)
end

-- Where a job stands in line: {model, version, lane, tenant, ticket, its cell,
-- seat, followers and log}. A suspect stands in its cell's line, apart from all
-- others. nil where its record does not tell.
local function place_of(id)
  local job = facts_of(id, 'model', 'version', 'lane', 'tenant', 'created', 'cell', 'seat', 'followers', 'log')
  if not (job[1] and job[2] and job[3] and job[4] and tonumber(job[5])) then return nil end
  if job[6] then return {job[1], job[2], 'suspect', job[6], job[5], false, job[7], job[8], job[9]} end
  return job
end

-- Take a queued id out of its line, or out of those that wait for their retry. A line that is empty leaves the ring.
local function unline(id)
  redis.call('ZREM', root .. ':later', id)
  local place = place_of(id)
  if not place then return end
  local model, version, lane, tenant = unpack(place)
  local line = line_key(model, version, lane, tenant)
  redis.call('ZREM', line, id)
  if redis.call('EXISTS', line) == 0 then redis.call('LREM', ring_key(model, version, lane), 1, tenant) end
end

local function count(event, model)
  local field = event .. ':' .. (model or '?')
  counted[field] = (counted[field] or 0) + 1
end

-- Count what is not final of a model, or of '@' and a tenant: `jobs` and `bytes` more (or fewer).
local function weigh(model, jobs, bytes)
  local sum = weighed[model] or {0, 0}
  weighed[model] = {sum[1] + jobs, sum[2] + bytes}
end

-- One command for many words (for ZADD: score, member, score, member ...); Lua's stack takes some thousands at a time.
local function for_many(command, key, words)
  for at = 1, #words, 1000 do redis.call(command, key, unpack(words, at, math.min(at + 999, #words))) end
end

-- What a gateway reads of a job (codec.py has the same list), and how much of it rides along in a notice.
local READ_FIELDS = {'v', 'state', 'model', 'version', 'lane', 'tenant', 'created', 'attempts', 'started', 'finished',
  'metadata', 'output', 'error', 'stages', 'batch_size'}
local BYTES_OF_JOB, BYTES_OF_NOTICE = 4096, 1024 * 1024
local told_bytes = 0

-- A job for a notice: {id, its fields as read}, or {id} where they are many.
local function told(id)
  local values, bytes = redis.call('HMGET', job_key(id), unpack(READ_FIELDS)), 0
  for _, value in ipairs(values) do bytes = bytes + (value and #value or 0) end
  if bytes > BYTES_OF_JOB or told_bytes + bytes > BYTES_OF_NOTICE then return {id} end
  told_bytes = told_bytes + bytes
  table.insert(values, 1, id)
  return values
end

-- Tell that a job came into another state: `followers` are gateways that follow it; `log` is its tenant, where somebody listens
-- to all of that.
local function changed(id, state, followers, log)
  for gateway in string.gmatch(followers or '', '[^ ]+') do redis.call('PUBLISH', 'jitney:gateway:' .. gateway, cjson.encode({told(id)})) end
  if not log then return end
  redis.call('XADD', root .. ':log:' .. log, 'MAXLEN', '~', 10000, '*', 'id', id, 'status', state)
  redis.call('EXPIRE', root .. ':log:' .. log, 3600)
  redis.call('PUBLISH', 'jitney:events', log)
end

-- Write down what was gathered, and tell each gateway once, whatever the number of jobs. Every script that ends, counts or
-- weighs jobs closes with it.
local function close()
  local load = root .. ':load'
  for_many('ZREM', root .. ':leases', ended)
  for_many('ZREM', root .. ':deadlines', ended)
  for field, times in pairs(counted) do redis.call('HINCRBY', root .. ':counts', field, times) end
  for model, sum in pairs(weighed) do
    if redis.call('HINCRBY', load, model .. ':jobs', sum[1]) <= 0 then
      redis.call('HDEL', load, model .. ':jobs', model .. ':bytes')
    else
      redis.call('HINCRBY', load, model .. ':bytes', sum[2])
    end
  end
  for gateway, ids in pairs(notices) do redis.call('PUBLISH', 'jitney:gateway:' .. gateway, cjson.encode(ids)) end
end

-- Of a tenant that may run so many at a time (`seat`: '@' and its name), one runs no more.
local function unseat(seat)
  local load, field = root .. ':load', seat .. ':running'
  if redis.call('HINCRBY', load, field, -1) <= 0 then redis.call('HDEL', load, field) end
end

-- Forget a dead letter: its input goes, and what is left of the job stays as long as any result.
local function purge(member, ttl_ms)
  local id, size = string.match(member, '^(%S+) (%d+)$')
  redis.call('ZREM', root .. ':dead', member)
  redis.call('DECRBY', root .. ':dead_bytes', size or 0)
  if id and redis.call('HDEL', job_key(id), 'input') == 1 then redis.call('PEXPIRE', job_key(id), ttl_ms) end
end

-- Keep a failed job's input: it is a dead letter now. The oldest letters make room.
local function keep(id, size, ends)
  local dead, bytes = root .. ':dead', root .. ':dead_bytes'
  redis.call('ZADD', dead, whole(now_ms), id .. ' ' .. size)
  local total = redis.call('INCRBY', bytes, size)
  redis.call('PEXPIRE', job_key(id), ends.dead_ttl_ms)
  while total > ends.dead_bytes or redis.call('ZCARD', dead) > ends.dead_letters do
    purge(redis.call('ZRANGE', dead, 0, 0)[1], ends.ttl_ms)
    total = tonumber(redis.call('GET', bytes))
  end
end

-- How long what has ended is kept: the four words with which every script that ends jobs begins, after its own.
local function ends_at(at)
  return {ttl_ms = ARGV[at], dead_ttl_ms = ARGV[at + 1], dead_letters = tonumber(ARGV[at + 2]), dead_bytes = tonumber(ARGV[at + 3])}
end

-- End a job: `field` is 'output' or 'error', `body` its JSON, `extra` more fields. The input goes, the result stays for a
-- while; `dead` keeps the input too. The job's watchers hear of its end when the script closes. `facts`: its model,
-- watchers, size, payer, seat and log, where the script has read them.
local function conclude(id, state, ends, field, body, extra, dead, facts)
  local job = job_key(id)
  facts = facts or redis.call('HMGET', job, 'model', 'watchers', 'size', 'payer', 'seat', 'log')
  redis.call('HSET', job, 'state', state, 'finished', whole(now_us), field, body, unpack(extra or {}))
  local size = tonumber(facts[3])
  if facts[1] and size then weigh(facts[1], -1, 0 - size) end  -- 0 - x: Lua's -0 is no integer to Redis
  if facts[4] and size then weigh(facts[4], -1, 0 - size) end
  if facts[5] then unseat(facts[5]) end
  if facts[6] then changed(id, state, nil, facts[6]) end
  if dead then
    redis.call('HDEL', job, 'watchers', 'seat', 'followers', 'log')
    keep(id, whole(size or 0), ends)
  else
    redis.call('HDEL', job, 'watchers', 'input', 'seat', 'followers', 'log')
    redis.call('PEXPIRE', job, ends.ttl_ms)
  end
  ended[#ended + 1] = id
  count('finished', (facts[1] or '?') .. ':' .. state)
  for gateway in string.gmatch(facts[2] or '', '[^ ]+') do
    notices[gateway] = notices[gateway] or {}
    table.insert(notices[gateway], told(id))
  end
end

local function failure(code, message) return cjson.encode({code = code, message = message, status = 422}) end

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

-- Give a running job back to its line, or after a while; false where its record does not tell which line.
local function requeue(id, after_ms)
  local place = place_of(id)
  if not place then return false end
  local model, version, lane, tenant, ticket = unpack(place)
  redis.call('ZREM', root .. ':leases', id)
  redis.call('HSET', job_key(id), 'state', 'queued')
  redis.call('HDEL', job_key(id), 'owner', 'seat')
  if place[7] then unseat(place[7]) end
  if after_ms then
    redis.call('ZADD', root .. ':later', whole(now_ms + after_ms), id)
  else
    enline(id, ticket, model, version, lane, tenant)
    wake(model, version)
  end
  changed(id, 'queued', place[8], place[9])
  return true
end

local RESTING = '-'  -- in place of a trial's jobs: the last trial killed its worker just now
local UNREADABLE = '{"code":"unreadable_job","message":"the record in the queue can not be read","status":422}'
local EXPIRED = '{"code":"deadline_exceeded","message":"the deadline passed before the job was done","status":504}'
