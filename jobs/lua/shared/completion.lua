-- Ends of jobs: results, dead letters, bulk outcomes, notifications.
-- `with completion`, after `queues`, `outbox`, `outputs`.
-- A script gathers its writes in these tables and ends with commit(): the jobs of a batch share most of their keys.
local notifications = {}  -- gateway → entries of jobs that became final (see notification_entry)
local ended_ids = {}  -- ids to remove from the leases and the deadlines
local event_counts = {}  -- field of `:counts` → increment
local total_changes = {}  -- model, or '@' and a tenant → {change of open jobs, change of their bytes}
local delivery_written = false  -- whether background processes have new work
local ended_lines = {}  -- bulk → lines, each {number, outcome, change of the bulk's bytes, whether it succeeded}

local function count_event(event, model)
  local field = event .. ':' .. (model or '?')
  event_counts[field] = (event_counts[field] or 0) + 1
end

-- Change the open jobs and bytes of a model, or of '@' and a tenant.
local function change_totals(model, jobs, bytes)
  local change = total_changes[model] or {0, 0}
  total_changes[model] = {change[1] + jobs, change[2] + bytes}
end

-- The fields that end_job reads of a job, for its own work and for the notification.
local JOB_FIELDS = {'state', 'owner', 'attempts', 'model', 'watchers', 'size', 'v', 'version', 'lane', 'tenant',
  'created', 'started', 'metadata', 'quota_mark', 'running_mark', 'webhook', 'event_log', 'bulk', 'byte_quota'}
local MAX_ENTRY_BYTES, MAX_NOTIFICATION_BYTES = 4096, 1024 * 1024  -- of jobs that a notification includes
local notified_bytes = 0
local NOW_US = int_text(now_us)

-- Return a job for a notification: {id, its READ_FIELDS as in codec.py}, or {id} if it is large. `body_bytes`: size of
-- the output or error.
local function notification_entry(id, fields, state, field, body, body_bytes, run)
  local _, _, attempts, model, _, _, v, version, lane, tenant, created, started, metadata = unpack(fields, 1, 13)
  local bytes = body_bytes + #(metadata or '')
  if bytes > MAX_ENTRY_BYTES or notified_bytes + bytes > MAX_NOTIFICATION_BYTES then return {id} end
  notified_bytes = notified_bytes + bytes
  local output, failure = field == 'output' and body, field == 'error' and body
  return {id, v, state, model, version, lane, tenant, created, attempts, started, NOW_US, metadata,
    output, failure, run and run[2] or false, run and run[4] or false}
end

-- Make a bulk job's next step due now; false if it does not wait for a step.
local function make_step_due(bulk, tenant)
  local waits = redis.call('ZADD', root .. ':bulk_due:' .. tenant, 'XX', 'LT', 'CH', int_text(now_ms), bulk) == 1
  if waits then update_due(root .. ':bulk_due', tenant) end
  return waits
end

-- Add the outcome of a bulk job's line. A line's id is the id of its bulk job and eight hex digits of the line number.
-- `chunked`: {id, attempt, chunks} of an output in chunks.
local function add_outcome(id, outcome, bytes, succeeded, chunked)
  local bulk = string.sub(id, 1, 26)
  ended_lines[bulk] = ended_lines[bulk] or {}
  table.insert(ended_lines[bulk], {tonumber(string.sub(id, 27), 16), cjson.encode(outcome), bytes, succeeded, chunked})
end

-- Write a bulk job's outcomes to `:bulk_outcomes`, once per line even if a script is sent again. A closed one takes
-- none.
local STEP_OUTCOMES = 500  -- outcomes that make the next step due at once
local function store_outcomes(bulk, lines)
  local key, done = root .. ':bulk:' .. bulk, root .. ':done_lines:' .. bulk
  local outcomes = root .. ':bulk_outcomes:' .. bulk
  local is_open, expanded, tenant = unpack(redis.call('HMGET', key, 'open', 'expanded', 'tenant'))
  local new, bytes, succeeded = {}, 0, 0
  for _, line in ipairs(lines) do
    if is_open and redis.call('SETBIT', done, line[1], 1) == 0 then
      new[#new + 1], bytes, succeeded = line[2], bytes + line[3], succeeded + (line[4] and 1 or 0)
    elseif line[5] then
      drop_chunks(unpack(line[5]))
    end
  end
  if #new == 0 then return end
  call_in_chunks('RPUSH', outcomes, new)
  redis.call('HINCRBY', key, 'bytes', bytes)
  local completed = redis.call('HINCRBY', key, 'completed', succeeded)
  local ended = completed + redis.call('HINCRBY', key, 'failed_lines', #new - succeeded)
  local length = redis.call('LLEN', outcomes)
  if (length >= STEP_OUTCOMES and length - #new < STEP_OUTCOMES) or ended == tonumber(expanded) then
    delivery_written = make_step_due(bulk, tenant) or delivery_written
  end
end

-- Write what was gathered, and notify each gateway once. Every script that ends or counts jobs calls this last.
local function commit()
  local totals = root .. ':open_totals'
  commit_kept()
  call_in_chunks('ZREM', root .. ':leases', ended_ids)
  call_in_chunks('ZREM', root .. ':deadlines', ended_ids)
  for field, times in pairs(event_counts) do redis.call('HINCRBY', root .. ':counts', field, times) end
  for model, change in pairs(total_changes) do
    if redis.call('HINCRBY', totals, model .. ':jobs', change[1]) <= 0 then
      redis.call('HDEL', totals, model .. ':jobs', model .. ':bytes')
    else
      redis.call('HINCRBY', totals, model .. ':bytes', change[2])
    end
  end
  for bulk, lines in pairs(ended_lines) do store_outcomes(bulk, lines) end
  for gateway, entries in pairs(notifications) do
    redis.call('PUBLISH', 'jitney:gateway:' .. gateway, cmsgpack.pack(entries))
  end
  if delivery_written then redis.call('PUBLISH', 'jitney:outbox', '') end
end

-- Return the functions for dead letters; built on demand, because most scripts make none. `:dead_letters` holds those
-- of the shard, `:tenant_dead_letters:<tenant>` those of a tenant, as '<id> <bytes> <tenant>' by the ms of their end.
-- `:dead_letter_counts` and `:dead_letter_sizes` hold the letters and bytes of each tenant. `retention`: see
-- retention_at.
local function dead_letter_functions(retention)
  local dead, letters = root .. ':dead_letters', {}

  function letters.member(id, size, tenant) return id .. ' ' .. (size or 0) .. ' ' .. (tenant or '?') end

  local function change_tenant_totals(tenant, count, bytes)
    for key, change in pairs({[root .. ':dead_letter_counts'] = count, [root .. ':dead_letter_sizes'] = bytes}) do
      if tonumber(redis.call('ZINCRBY', key, change, tenant)) <= 0 then redis.call('ZREM', key, tenant) end
    end
  end

  -- Remove a dead letter. Its input and webhook are deleted; the rest of the job expires as any result. Return a false
  -- value if there is no such letter. A newer job under the id of a letter whose record had expired keeps its input.
  function letters.remove(member)
    local id, size, tenant = string.match(member, '^(%S+) (%d+) ?(%S*)$')
    local existed = redis.call('ZREM', dead, member) == 1
    if not existed or not id then return end
    redis.call('DECRBY', root .. ':dead_letter_bytes', size)
    if redis.call('ZREM', root .. ':tenant_dead_letters:' .. tenant, member) == 1 then
      change_tenant_totals(tenant, -1, 0 - size)
    end
    if job_fields(id, 'state')[1] ~= 'failed' then return true end
    if redis.call('HDEL', job_key(id), 'input', 'webhook') > 0 then
      redis.call('PEXPIRE', job_key(id), retention.ttl_ms)
    end
    return true
  end

  -- Remove letters while there are too many or too many bytes, at most `limit`. Return how many. The tenant with the
  -- most letters, or the most bytes, loses its oldest. If no tenant has two letters, the oldest of all is removed.
  function letters.make_room(limit)
    local removed = 0
    while removed < limit do
      local is_large = (tonumber(redis.call('GET', root .. ':dead_letter_bytes')) or 0) > retention.dead_bytes
      if not is_large and redis.call('ZCARD', dead) <= retention.dead_letters then break end
      local by_tenant = root .. (is_large and ':dead_letter_sizes' or ':dead_letter_counts')
      local holder, held = unpack(redis.call('ZRANGE', by_tenant, 0, 0, 'REV', 'WITHSCORES'))
      local has_most = holder and (is_large or tonumber(held) > 1)
      local oldest = has_most and redis.call('ZRANGE', root .. ':tenant_dead_letters:' .. holder, 0, 0)[1]
      if not oldest or not letters.remove(oldest) then  -- no tenant has two, or a member is invalid
        oldest = redis.call('ZRANGE', dead, 0, 0)[1]
        if not oldest then  -- there is no letter: the sum of bytes is wrong
          redis.call('DEL', root .. ':dead_letter_bytes')
          break
        end
        letters.remove(oldest)
      end
      removed = removed + 1
    end
    return removed
  end

  -- Keep a failed job's input as a dead letter. At most 100 others make room for it; the next sweep removes the rest.
  function letters.add(id, size, tenant)
    local member = letters.member(id, size, tenant)
    redis.call('ZADD', root .. ':tenant_dead_letters:' .. (tenant or '?'), int_text(now_ms), member)
    if redis.call('ZADD', dead, int_text(now_ms), member) == 1 then  -- otherwise a letter of this id is already counted
      redis.call('INCRBY', root .. ':dead_letter_bytes', size)
      change_tenant_totals(tenant or '?', 1, size)
    end
    redis.call('PEXPIRE', job_key(id), math.max(retention.dead_ttl_ms, retention.ttl_ms))
    letters.make_room(100)
  end

  return letters
end

-- Read the 4 retention arguments of every script that ends jobs, from this position on: the lifetimes of results and of
-- dead letters in ms, and how many dead letters and bytes of them are kept.
local function retention_at(at)
  return {ttl_ms = tonumber(ARGV[at]), dead_ttl_ms = tonumber(ARGV[at + 1]), dead_letters = tonumber(ARGV[at + 2]),
    dead_bytes = tonumber(ARGV[at + 3])}
end

-- Lifetime of a bulk line's record after its end. Its outcome is in `:bulk_outcomes`; the record is only read by a
-- finish that is sent again.
local LINE_TTL_MS = 10000
-- Lifetime of a line's chunks, which are deleted once its outcome is stored.
local LINE_CHUNKS_TTL_MS = 7 * 86400000

-- End a job. `field` is 'output' or 'error', `body` its JSON. A large output goes into `large_output`, so that reading
-- the job does not read it. The input and the webhook are deleted unless `dead` keeps them. Watchers are notified in
-- commit; the webhook's delivery is created here. `fields`: the job's JOB_FIELDS, if the script has read them; `run`:
-- {'stages', …, 'batch_size', …} of a job that was run. `chunks`: number of the chunks that hold the output; then `body`
-- is its size.
local function end_job(id, state, retention, field, body, dead, fields, run, chunks)
  local job = job_key(id)
  fields = fields or redis.call('HMGET', job, unpack(JOB_FIELDS))
  local _, _, attempts, model, watchers, size, v, version, lane, tenant, created, started, metadata, quota_mark,
    running_mark, webhook, event_log, bulk, byte_quota = unpack(fields, 1, #JOB_FIELDS)
  size = tonumber(size)
  local ttl_ms = bulk and math.min(LINE_TTL_MS, retention.ttl_ms) or retention.ttl_ms
  local bytes = chunks and tonumber(body) or #body
  local is_large = field == 'output' and bytes > MAX_INLINE_BYTES
  local written = (chunks and 'output_chunks') or (is_large and 'large_output') or field
  redis.call('HSET', job, 'state', state, 'finished', NOW_US, written, chunks or body, unpack(run or {}))
  if is_large then redis.call('HSET', job, 'output_bytes', int_text(bytes)) end
  if chunks then expire_chunks(id, attempts, chunks, bulk and LINE_CHUNKS_TTL_MS or ttl_ms) end
  if field == 'output' and not bulk and (is_large or byte_quota) then
    local member = keep_output(tenant or '?', bytes, ttl_ms)
    if is_large then redis.call('HSET', job, 'kept_as', member) end
  end
  if model and size then change_totals(model, -1, 0 - size) end  -- 0 - x: Redis reads Lua's -0 as no integer
  if quota_mark and size then change_totals(quota_mark, -1, 0 - size) end
  if running_mark then release_running(running_mark) end
  if dead then
    redis.call('HDEL', job, 'watchers', 'running_mark', 'followers', 'event_log')
    dead_letter_functions(retention).add(id, int_text(size or 0), tenant)
  else
    redis.call('HDEL', job, 'watchers', 'input', 'running_mark', 'followers', 'event_log', 'webhook')
    redis.call('PEXPIRE', job, ttl_ms)
  end
  ended_ids[#ended_ids + 1] = id
  local model_version = (model or '?') .. ':' .. (version or '?')
  count_event('finished', model_version .. ':' .. state)
  if dead then count_event('faults', model_version) end
  if bulk then
    local output, failure = field == 'output' and not chunks and body, field == 'error' and body
    local outcome = {id, bulk, v, state, model, version, lane, tenant, created, attempts, started,
      NOW_US, metadata, output, failure, run and run[2] or false, run and run[4] or false}
    if chunks then outcome[18], outcome[19] = int_text(bytes), chunks end
    add_outcome(id, outcome, bytes - (size or 0), state == 'succeeded', chunks and {id, attempts, chunks})
  end
  if event_log then publish_state(id, state, nil, event_log) end
  if webhook then delivery_written = deliver_end(id, state, webhook) and true or delivery_written end
  for gateway in string.gmatch(watchers or '', '[^ ]+') do
    notifications[gateway] = notifications[gateway] or {}
    table.insert(notifications[gateway], notification_entry(id, fields, state, field, body, bytes, run))
  end
end

-- Return an error body with status 422.
local function error_body(code, message) return cjson.encode({code = code, message = message, status = 422}) end

local UNREADABLE = '{"code":"unreadable_job","message":"the record in the queue cannot be read","status":422}'
local EXPIRED = '{"code":"deadline_exceeded","message":"the deadline passed before the job was done","status":504}'
