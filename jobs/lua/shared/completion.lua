-- Ends of jobs: results, counters, dead letters, bulk outcomes, notifications.
-- `with completion`, after `queues`, `outbox`, `outputs`.
-- A script gathers its writes in these tables and ends with commit(): the jobs of a batch share most of their keys.
local notifications = {}  -- gateway → entries of jobs that became final (see notification_entry)
local ended_ids = {}  -- ids to remove from the timers
local event_counts = {}  -- field of `:counts` → increment
local total_changes = {}  -- model, or '@' and a tenant → {change of the rows of open jobs, change of their bytes}
local delivery_written = false  -- whether background processes have new work
local unsuccessful = {}  -- tenant → {created, member, created, member …; key, ttl_ms} of jobs to list
local ended_lines = {}  -- bulk → lines, each {number, outcome, change of the bulk's bytes, whether it succeeded}

local function count_event(event, model)
  local field = event .. ':' .. (model or '?')
  event_counts[field] = (event_counts[field] or 0) + 1
end

-- Count the end of a job. `route.ends` holds the counter of each state.
local NO_ROUTE = {model_version = '?:?', ends = {}}
local function count_end(route, state)
  local field = route.ends[state]
  if not field then
    field = 'finished:' .. route.model_version .. ':' .. state
    route.ends[state] = field
  end
  event_counts[field] = (event_counts[field] or 0) + 1
end

-- Change the rows of open jobs, and their bytes, of a model, or of '@' and a tenant.
local function change_totals(model, rows, bytes)
  local change = total_changes[model]
  if change then
    change[1], change[2] = change[1] + rows, change[2] + bytes
  else
    total_changes[model] = {rows, bytes}
  end
end

-- The fields that end_job reads of a job, for its own work and for the notification.
local JOB_FIELDS = {'state', 'head', 'facts', 'webhook'}
local MAX_ENTRY_BYTES, MAX_NOTIFICATION_BYTES = 4096, 1024 * 1024  -- of jobs that a notification includes
local notified_bytes = 0
local NOW_US = int_text(now_us)

-- Return a job for a notification: {id, its READ_FIELDS as in codec.py}, or {id} if it is large. `body_bytes`: size of
-- the output or error.
local function notification_entry(id, words, head, facts, is_output, body, body_bytes)
  local bytes = body_bytes + (facts and #facts or 0)
  if bytes > MAX_ENTRY_BYTES or notified_bytes + bytes > MAX_NOTIFICATION_BYTES then return {id} end
  notified_bytes = notified_bytes + bytes
  if is_output then return {id, words, head, facts, body} end
  return {id, words, head, facts, false, body}
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
  table.insert(ended_lines[bulk], {tonumber(string.sub(id, 27), 16), cmsgpack.pack(outcome), bytes, succeeded, chunked})
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

-- Add a job that did not succeed to its tenant's list of such jobs, which filters read (jobs/store/job_search.py).
local MAX_UNSUCCESSFUL = 10000  -- of a tenant on one shard: the newest
local function list_unsuccessful(id, state, code, head, retention)
  local route, _, _, created = parse_head(head)
  if not route or not tonumber(created) then return end
  local list = unsuccessful[route.tenant]
  if not list then
    list = {key = root .. ':unsuccessful:' .. route.tenant, ttl_ms = math.max(retention.ttl_ms, retention.dead_ttl_ms)}
    unsuccessful[route.tenant] = list
  end
  local member = table.concat({id, state, code, route.model, route.version, route.lane}, ' ')
  list[#list + 1], list[#list + 2] = created, member
end

local function write_unsuccessful()
  for _, list in pairs(unsuccessful) do
    call_in_chunks('ZADD', list.key, list)
    redis.call('ZREMRANGEBYRANK', list.key, 0, -MAX_UNSUCCESSFUL - 1)
    redis.call('PEXPIRE', list.key, int_text(list.ttl_ms))
  end
end

-- Write what was gathered, and notify each gateway once. Every script that ends or counts jobs calls this last.
local function commit()
  local totals = root .. ':open_totals'
  commit_kept()
  call_in_chunks('ZREM', root .. ':timers', ended_ids)
  for field, times in pairs(event_counts) do redis.call('HINCRBY', root .. ':counts', field, times) end
  for model, change in pairs(total_changes) do
    if redis.call('HINCRBY', totals, model .. ':jobs', change[1]) <= 0 then
      redis.call('HDEL', totals, model .. ':jobs', model .. ':bytes')
    else
      redis.call('HINCRBY', totals, model .. ':bytes', change[2])
    end
  end
  for bulk, lines in pairs(ended_lines) do store_outcomes(bulk, lines) end
  write_unsuccessful()
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
    if state_name(job_fields(id, 'state')[1]) ~= 'failed' then return true end
    local deleted = redis.call('HDEL', job_key(id), 'body', 'webhook') + redis.call('UNLINK', input_key(id))
    if deleted > 0 then redis.call('PEXPIRE', job_key(id), retention.ttl_ms) end
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
    for _, key in ipairs({job_key(id), input_key(id)}) do
      redis.call('PEXPIRE', key, math.max(retention.dead_ttl_ms, retention.ttl_ms))
    end
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

-- Take over the output of a succeeded job: into `body` in place of the input, or into `large_output`, so that reading the
-- job does not read it, or in `chunks`, whose bytes are `body`. Return its bytes.
local function write_output(id, words, route, facts, body, ttl_ms, chunks)
  local job, bytes = job_key(id), chunks and tonumber(body) or #body
  local is_large = bytes > MAX_INLINE_BYTES
  if is_large then
    redis.call('HSET', job, 'state', words, 'output_bytes', int_text(bytes),
      chunks and 'output_chunks' or 'large_output', chunks or body)
    redis.call('HDEL', job, 'body')
  else
    redis.call('HSET', job, 'state', words, 'body', body)
  end
  if chunks then expire_chunks(id, string.match(words, '%d+'), chunks, facts.bulk and LINE_CHUNKS_TTL_MS or ttl_ms) end
  if not facts.bulk and (is_large or facts.quota == 'bytes') then
    local member = keep_output(route and route.tenant or '?', bytes, ttl_ms)
    if is_large then redis.call('HSET', job, 'kept_as', member) end
  end
  return bytes
end

-- End a job. `body`: the JSON of its output if it has succeeded, otherwise of its error. The input and the webhook are
-- deleted unless `dead` keeps them. Watchers are notified in commit; the webhook's delivery is created here. `fields`:
-- the job's JOB_FIELDS, if the script has read them; `run`: '<batch size> <stages>' of a job that was run. `chunks`:
-- number of the chunks that hold the output; then `body` is its size.
local function end_job(id, state, retention, body, dead, fields, run, chunks)
  local job = job_key(id)
  local words, head, facts, webhook = unpack(fields or redis.call('HMGET', job, unpack(JOB_FIELDS)), 1, #JOB_FIELDS)
  local route, size = parse_route_and_size(head)
  local more, is_output = unpack_facts(facts), state == 'succeeded'
  local rows = rows_of(more)
  local ttl_ms = more.bulk and math.min(LINE_TTL_MS, retention.ttl_ms) or retention.ttl_ms
  local claim, mark, watchers = string.match(words or '', '^%l+( %d+ %S+ %S+) (%S+) ?(.*)$')
  local code = is_output and '-' or string.match(body, '"code": ?"([%w_]+)"') or '-'
  words = state .. (claim or ' 0 - -') .. ' ' .. NOW_US .. ' ' .. (run or '- -') .. ' ' .. code
  local bytes = #body
  if is_output then
    bytes = write_output(id, words, route, more, body, ttl_ms, chunks)
  else
    redis.call('HSET', job, 'state', words, 'error', body)
  end
  if route then change_totals(route.model, -rows, 0 - size) end  -- 0 - x: Redis reads Lua's -0 as no integer
  if route and more.quota then change_totals('@' .. route.tenant, -rows, 0 - size) end
  if route and mark == '+' then release_running(route.tenant, rows) end
  if dead then
    dead_letter_functions(retention).add(id, size or '0', route and route.tenant)
  else
    if not is_output then redis.call('HDEL', job, 'body') end
    if tonumber(size or 0) >= OWN_KEY_BYTES then redis.call('UNLINK', input_key(id)) end
    if webhook then redis.call('HDEL', job, 'webhook') end
    redis.call('PEXPIRE', job, ttl_ms)
  end
  ended_ids[#ended_ids + 1] = id
  count_end(route or NO_ROUTE, state)
  if dead then count_event('faults', (route or NO_ROUTE).model_version) end
  if more.bulk then
    local outcome = {id, more.bulk, words, head, facts, is_output and not chunks and body, not is_output and body,
      chunks and int_text(bytes) or false, chunks or false}
    add_outcome(id, outcome, bytes - (size or 0), is_output, chunks and {id, string.match(claim, '%d+'), chunks})
  end
  if not is_output and not more.bulk then list_unsuccessful(id, state, code, head, retention) end
  if more.logged then publish_state(id, state, '', true, route.tenant) end
  if webhook then delivery_written = deliver_end(id, state, webhook) and true or delivery_written end
  if claim and watchers ~= '' then
    local entry, known = notification_entry(id, words, head, facts, is_output, body, bytes), notifications[watchers]
    if known then  -- the only watcher is known: the common case
      known[#known + 1] = entry
    else
      for gateway in string.gmatch(watchers, '[^ +]+') do
        notifications[gateway] = notifications[gateway] or {}
        table.insert(notifications[gateway], entry)
      end
    end
  end
end

-- Return an error body with status 422.
local function error_body(code, message) return cjson.encode({code = code, message = message, status = 422}) end

local UNREADABLE = '{"code":"unreadable_job","message":"the record in the queue cannot be read","status":422}'
local EXPIRED = '{"code":"deadline_exceeded","message":"the deadline passed before the job was done","status":504}'
