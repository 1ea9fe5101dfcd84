-- How jobs end: for scripts that say `with completion`, and close with close().
-- What a script gathers, to be written down at once: a batch's jobs share most of their keys.
local notices = {}  -- gateway → jobs that became final, each {id, fields as read}
local ended = {}  -- their ids: they leave the leases and the deadlines
local counted = {}  -- field of counts → how often
local weighed = {}  -- model → {jobs, bytes} that are open no more, or anew
local posted = false  -- whether a delivery was written
local lines_ended = {}  -- bulk → its lines that ended, each {number, outcome, bytes that its end adds, whether it succeeded}

local function count(event, model)
  local field = event .. ':' .. (model or '?')
  counted[field] = (counted[field] or 0) + 1
end

-- Count what is not final of a model, or of '@' and a tenant: `jobs` and `bytes` more (or fewer).
local function weigh(model, jobs, bytes)
  local sum = weighed[model] or {0, 0}
  weighed[model] = {sum[1] + jobs, sum[2] + bytes}
end

-- What is read of a job when it ends: by whoever ends it, and for those who wait for it.
local FACTS = {'state', 'owner', 'attempts', 'model', 'watchers', 'size', 'v', 'version', 'lane', 'tenant', 'created', 'started',
  'metadata', 'quota_mark', 'running_mark', 'webhook', 'event_log', 'bulk'}
local BYTES_OF_JOB, BYTES_OF_NOTICE = 4096, 1024 * 1024  -- how much of a job rides along in a notice
local told_bytes = 0
local NOW_US = whole(now_us)

-- A job for a notice: {id, what a gateway reads of it, in codec.py's order}, or {id} where that is much.
local function told(id, facts, state, field, body, run)
  local bytes = #body + #(facts[13] or '')
  if bytes > BYTES_OF_JOB or told_bytes + bytes > BYTES_OF_NOTICE then return {id} end
  told_bytes = told_bytes + bytes
  local output, failed = field == 'output' and body, field == 'error' and body
  return {id, facts[7], state, facts[4], facts[8], facts[9], facts[10], facts[11], facts[3], facts[12], NOW_US, facts[13],
    output, failed, run and run[2] or false, run and run[4] or false}
end

-- Have a bulk's next step come at once, if it waits for one; true where it does.
local function hurry(bulk, tenant)
  local waits = redis.call('ZADD', root .. ':bulk_due:' .. tenant, 'XX', 'LT', 'CH', whole(now_ms), bulk) == 1
  if waits then take_place(root .. ':bulk_due', tenant) end
  return waits
end

-- The outcome of a bulk's line, to be written to the bulk's own log. A line's id is its bulk's and eight digits of its number.
local function line_ended(id, outcome, bytes, succeeded)
  local bulk = string.sub(id, 1, 26)
  lines_ended[bulk] = lines_ended[bulk] or {}
  table.insert(lines_ended[bulk], {tonumber(string.sub(id, 27), 16), cjson.encode(outcome), bytes, succeeded})
end

-- Write a bulk's outcomes to its log, each line's once, whatever is run or sent twice. A bulk that is over takes none.
local WAKE = 500  -- outcomes in a log that are worth a step
local function log_lines(bulk, lines)
  local key, marks, log = root .. ':bulk:' .. bulk, root .. ':done_lines:' .. bulk, root .. ':bulk_outcomes:' .. bulk
  local facts = redis.call('HMGET', key, 'open', 'expanded', 'tenant')
  local outcomes, bytes, succeeded = {}, 0, 0
  for _, line in ipairs(facts[1] and lines or {}) do
    if redis.call('SETBIT', marks, line[1], 1) == 0 then
      outcomes[#outcomes + 1], bytes, succeeded = line[2], bytes + line[3], succeeded + (line[4] and 1 or 0)
    end
  end
  if #outcomes == 0 then return end
  for_many('RPUSH', log, outcomes)
  redis.call('HINCRBY', key, 'bytes', bytes)
  local completed = redis.call('HINCRBY', key, 'completed', succeeded)
  local ended = completed + redis.call('HINCRBY', key, 'failed_lines', #outcomes - succeeded)
  local length = redis.call('LLEN', log)
  if (length >= WAKE and length - #outcomes < WAKE) or ended == tonumber(facts[2]) then
    posted = hurry(bulk, facts[3]) or posted
  end
end

-- Write down what was gathered, and tell each gateway once, whatever the number of jobs. Every script that ends, counts or
-- weighs jobs closes with it.
local function close()
  local load = root .. ':open_totals'
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
  for bulk, lines in pairs(lines_ended) do log_lines(bulk, lines) end
  for gateway, ids in pairs(notices) do redis.call('PUBLISH', 'jitney:gateway:' .. gateway, cmsgpack.pack(ids)) end
  if posted then redis.call('PUBLISH', 'jitney:outbox', '') end
end

-- Dead letters: `:dead_letters` has all of the shard, `:tenant_dead_letters:<tenant>` those of a tenant, both by the ms of their end, as
-- `<id> <bytes> <tenant>`. How many letters and how many bytes each tenant holds is in `:dead_letter_counts` and `:dead_letter_sizes`: who
-- holds most makes room first. Gives what is done with them: most scripts end no job so, and need none of it.
local function dead_letters(ends)
  local dead, letters = root .. ':dead_letters', {}

  function letters.member(id, size, tenant) return id .. ' ' .. (size or 0) .. ' ' .. (tenant or '?') end

  local function weigh_letter(tenant, count, bytes)
    for key, more in pairs({[root .. ':dead_letter_counts'] = count, [root .. ':dead_letter_sizes'] = bytes}) do
      if tonumber(redis.call('ZINCRBY', key, more, tenant)) <= 0 then redis.call('ZREM', key, tenant) end
    end
  end

  -- Forget a dead letter: its input and its webhook go, and what is left of the job stays as long as any result. False where
  -- there is no such letter. A job that was made anew under the id of a letter whose record is gone keeps what it has.
  function letters.forget(member)
    local id, size, tenant = string.match(member, '^(%S+) (%d+) ?(%S*)$')
    local there = redis.call('ZREM', dead, member) == 1
    if not there or not id then return there end
    redis.call('DECRBY', root .. ':dead_letter_bytes', size)
    if redis.call('ZREM', root .. ':tenant_dead_letters:' .. tenant, member) == 1 then weigh_letter(tenant, -1, 0 - size) end
    if facts_of(id, 'state')[1] ~= 'failed' then return true end
    if redis.call('HDEL', job_key(id), 'input', 'webhook') > 0 then redis.call('PEXPIRE', job_key(id), ends.ttl_ms) end
    return true
  end

  -- Forget letters as long as there are too many, or too many bytes, at most `most` of them; gives how many. The tenant that
  -- holds most letters, or most bytes, loses its oldest; where nobody has two, the oldest of all goes.
  function letters.make_room(most)
    local gone = 0
    while gone < most do
      local is_large = (tonumber(redis.call('GET', root .. ':dead_letter_bytes')) or 0) > ends.dead_bytes
      if not is_large and redis.call('ZCARD', dead) <= ends.dead_letters then break end
      local holder, held = unpack(redis.call('ZRANGE', root .. (is_large and ':dead_letter_sizes' or ':dead_letter_counts'), 0, 0, 'REV', 'WITHSCORES'))
      local has_most = holder and (is_large or tonumber(held) > 1)
      local oldest = has_most and redis.call('ZRANGE', root .. ':tenant_dead_letters:' .. holder, 0, 0)[1]
      if not oldest or not letters.forget(oldest) then  -- nobody has two; or junk lies in place of what a tenant holds
        oldest = redis.call('ZRANGE', dead, 0, 0)[1]
        if not oldest then  -- there is no letter, whatever the sum says
          redis.call('DEL', root .. ':dead_letter_bytes')
          break
        end
        letters.forget(oldest)
      end
      gone = gone + 1
    end
    return gone
  end

  -- Keep a failed job's input: it is a dead letter now. Others make room: some with each letter, the rest with the next sweep.
  function letters.keep(id, size, tenant)
    local member = letters.member(id, size, tenant)
    redis.call('ZADD', root .. ':tenant_dead_letters:' .. (tenant or '?'), whole(now_ms), member)
    if redis.call('ZADD', dead, whole(now_ms), member) == 1 then  -- else a letter of this id was there already, and is counted
      redis.call('INCRBY', root .. ':dead_letter_bytes', size)
      weigh_letter(tenant or '?', 1, size)
    end
    redis.call('PEXPIRE', job_key(id), math.max(ends.dead_ttl_ms, ends.ttl_ms))
    letters.make_room(100)
  end

  return letters
end

-- How long what has ended is kept: the four words with which every script that ends jobs begins, after its own.
local function ends_at(at)
  return {ttl_ms = tonumber(ARGV[at]), dead_ttl_ms = tonumber(ARGV[at + 1]), dead_letters = tonumber(ARGV[at + 2]), dead_bytes = tonumber(ARGV[at + 3])}
end

-- What became of a bulk's line lies in the bulk's log; the job itself stays only for a finish that is sent twice.
local LINE_TTL_MS = 10000

-- End a job: `field` is 'output' or 'error', `body` its JSON. A large output lies in a field of its own, so that a reader of the
-- job does not read it too. The input and the webhook go, the result stays for a while; `dead` keeps input and webhook. The job's watchers hear of its end when the script closes, and its webhook has a
-- delivery from now on. `facts`: its FACTS, where the script has read them;
-- `run`: {'stages', …, 'batch_size', …} of a job that was run.
local function conclude(id, state, ends, field, body, dead, facts, run)
  local job = job_key(id)
  facts = facts or redis.call('HMGET', job, unpack(FACTS))
  local model, size = facts[4], tonumber(facts[6])
  local is_large = field == 'output' and #body > MOST_INLINE
  redis.call('HSET', job, 'state', state, 'finished', NOW_US, is_large and 'large_output' or field, body, unpack(run or {}))
  if is_large then redis.call('HSET', job, 'output_bytes', #body) end
  if model and size then weigh(model, -1, 0 - size) end  -- 0 - x: Lua's -0 is no integer to Redis
  if facts[14] and size then weigh(facts[14], -1, 0 - size) end
  if facts[15] then unseat(facts[15]) end
  if dead then
    redis.call('HDEL', job, 'watchers', 'running_mark', 'followers', 'event_log')
    dead_letters(ends).keep(id, whole(size or 0), facts[10])
  else
    redis.call('HDEL', job, 'watchers', 'input', 'running_mark', 'followers', 'event_log', 'webhook')
    redis.call('PEXPIRE', job, facts[18] and math.min(LINE_TTL_MS, ends.ttl_ms) or ends.ttl_ms)
  end
  ended[#ended + 1] = id
  local which = (model or '?') .. ':' .. (facts[8] or '?')
  count('finished', which .. ':' .. state)
  if dead then count('faults', which) end
  if facts[18] then
    local output, failed = field == 'output' and body, field == 'error' and body
    local outcome = {id, facts[18], facts[7], state, model, facts[8], facts[9], facts[10], facts[11], facts[3], facts[12],
      NOW_US, facts[13], output, failed, run and run[2] or false, run and run[4] or false}
    line_ended(id, outcome, #body - (size or 0), state == 'succeeded')
  end
  if facts[17] then changed(id, state, nil, facts[17]) end
  if facts[16] then posted = post(id, state, facts[16]) and true or posted end
  for gateway in string.gmatch(facts[5] or '', '[^ ]+') do
    notices[gateway] = notices[gateway] or {}
    table.insert(notices[gateway], told(id, facts, state, field, body, run))
  end
end

local function failure(code, message) return cjson.encode({code = code, message = message, status = 422}) end

local UNREADABLE = '{"code":"unreadable_job","message":"the record in the queue can not be read","status":422}'
local EXPIRED = '{"code":"deadline_exceeded","message":"the deadline passed before the job was done","status":504}'
