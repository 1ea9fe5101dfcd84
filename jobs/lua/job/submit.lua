-- Accept new jobs: enqueue each, or hand it off to a worker with a free slot.
-- ARGV     gateway that waits for these jobs ('' = none), idempotency_ttl_s, list_limit (ids in a tenant's job list),
--          list_ttl_s, limits of one model's open jobs: max_jobs (which counts rows) and max_bytes for lane
--          interactive, then for lane bulk; then per job 3 arguments: id; description, '' = that of the job before; input.
--          The description, a MessagePack array: route, kind, deadline_ms, record version, bytes of the input if it has
--          a key of its own, otherwise 0; then, for jobs that have them, each '' if absent: facts (see `common`),
--          idempotency key, digest of the request, webhook, quota ('<rows> <bytes>' that the tenant may have open, and
--          'claimed' if its running rows are limited, which excludes handoffs)
-- returns  per job its created_us, or {result, id, created_us}; result =
--            | 'new'       an earlier call has created this id
--            | 'replayed'  the idempotency key created this job before; created_us is 0 if its record has expired
--            | 'mismatch'  the idempotency key belongs to another request
--            | 'full'      too many open jobs or bytes of this model; then: their rows, bytes
--            | 'quota'     too many open jobs or bytes of this tenant; then: their rows, bytes, bytes of its kept outputs
--            | 'lost'      the key of its input has expired; then: 0, 0
--            | 'broken'    the key of its queue holds another type; then: lane, tenant
-- Safe to send again: an id that exists is answered as 'new' and left as it is.
-- Keys that several jobs share are read and written once for all of them, because commands dominate the cost of a job.
-- with events, free_slots, queues, idempotency, handoff
local gateway, idempotency_ttl_s, list_limit, list_ttl_s = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local FIRST_LIMIT, FIRST_JOB = 5, 9  -- positions in ARGV
local TRIM_INTERVAL = 64  -- a tenant's job list is trimmed with one job in 64, chosen by its random id
local sequence  -- of the next job
local watcher = gateway ~= '' and ' - ' .. gateway or ' -'
local NEW_STATE = 'queued 0 - -' .. watcher
local results = {}
local totals = {}  -- model, or '@' and a tenant with a quota → rows of its open jobs, bytes, jobs submitted, new jobs
local routes = {}  -- see route_of
local timers = {}  -- ms, id, ms, id …
local known_ids = {}  -- ids whose jobs may exist already; nil if none of this call exists
local job  -- what the description of a job says; see read_description

-- Return the next sequence number: the time in µs, but always more than the last one, even if the clock goes back.
local function sequence_after(last)
  if last > now_us + 86400 * 1000000 then last = 0 end  -- no clock was a day ahead: the value is invalid
  return math.max(now_us, last + 1)
end

local function totals_of(model)
  if not totals[model] then
    local sums = redis.call('HMGET', root .. ':open_totals', model .. ':jobs', model .. ':bytes', model .. ':submitted',
      'sequence', model .. ':outputs')
    totals[model] = {jobs = tonumber(sums[1]) or 0, bytes = tonumber(sums[2]) or 0, submitted = tonumber(sums[3]) or 0,
      outputs = tonumber(sums[5]) or 0, new = 0}
    sequence = sequence or sequence_after(tonumber(sums[4]) or 0)
  end
  return totals[model]
end

-- Make the key of a large input permanent; return false if it does not exist.
local function keep_input(id)
  return redis.call('PERSIST', input_key(id)) == 1 or redis.call('EXISTS', input_key(id)) == 1
end

-- The same for a job that exists; delete the key if the job has ended.
local function settle_input(id)
  local state = state_name(job_fields(id, 'state')[1])
  if state == 'queued' or state == 'running' then keep_input(id) else redis.call('UNLINK', input_key(id)) end
end

-- Return a result for a job that exists; its end is notified to this gateway, too.
local function existing(result, id, created)
  if gateway ~= '' then add_watcher(id, gateway) end
  return {result, id, created}
end

-- Return a route with what its jobs share. `queued`: sequence, id, sequence, id … of jobs to enqueue; `listed`: the same
-- for the tenant's job list. `is_broken`: the key of its queue holds another type.
local function route_of(words)
  local route = parse_route(words)
  if route.totals then return route end
  local limits = route.lane == 'bulk' and FIRST_LIMIT + 2 or FIRST_LIMIT
  route.queue = queue_key(route.model, route.version, route.lane, route.tenant)
  local size = redis.pcall('ZCARD', route.queue)
  route.is_broken, route.is_empty = type(size) ~= 'number', size == 0
  route.totals, route.queued, route.listed = totals_of(route.model), {}, {}
  route.max_jobs, route.max_bytes = tonumber(ARGV[limits]), tonumber(ARGV[limits + 1])
  routes[#routes + 1] = route
  return route
end

-- Return the totals of a tenant with a quota, then the result of a job that exceeds it or nil.
local function check_quota(tenant, quota, size, rows)
  local max_jobs, max_bytes = string.match(quota, '^(%d+) (%d+)')
  if not max_jobs then return nil end
  local sums = totals_of('@' .. tenant)
  if sums.jobs + rows > tonumber(max_jobs) or sums.bytes + sums.outputs + size > tonumber(max_bytes) then
    return sums, {'quota', int_text(sums.jobs), int_text(sums.bytes), int_text(sums.outputs)}
  end
  return sums
end

local function count_new(sums, size, rows)
  sums.jobs, sums.bytes, sums.new = sums.jobs + rows, sums.bytes + size, sums.new + 1
end

-- Write the record of a job; behind the facts, if it has any, may stand more fields and values.
local function write_record(key, head, state, facts, ...)
  if facts then return redis.call('HSET', key, 'head', head, 'state', state, 'facts', facts, ...) end
  redis.call('HSET', key, 'head', head, 'state', state, ...)
end

-- Return what a description says, with the words of a record that all its jobs share.
local function read_description(packed)
  local words, kind, deadline_ms, v, own_key_bytes, facts, key, digest, webhook, quota = unpack(cmsgpack.unpack(packed))
  if facts == '' then facts = nil end
  local more, deadline = facts and cmsgpack.unpack(facts) or NO_FACTS, now_ms + deadline_ms
  return {words = words, tail = ' ' .. kind .. ' ' .. words, deadline_ms = deadline_ms, deadline = deadline,
    deadline_text = int_text(deadline), v = v, own_key_bytes = own_key_bytes, facts = facts, more = more,
    rows = rows_of(more), key = key ~= '' and key, digest = digest, webhook = webhook ~= '' and webhook,
    quota = quota ~= '' and quota}
end

-- Return the field `head` of a job whose input has this size.
local function head_of(size, created)
  if job.size ~= size then
    job.size, job.start = size, job.v .. ' ' .. size .. ' ' .. job.deadline_text .. ' '
  end
  return job.start .. created .. job.tail
end

-- Return the result for an id that exists.
local function known_result(id)
  if job.own_key_bytes > 0 then settle_input(id) end
  local _, _, _, created = parse_head(job_fields(id, 'head')[1])
  return existing('new', id, created or '0')
end

-- Return the result for an idempotency key that has been used; nil if it has not.
local function replayed_result()
  local earlier, is_same = find_by_key(string.match(job.words, '%S+$'), job.key, job.digest)
  if not earlier then return nil end
  if not is_same then return {'mismatch', earlier, '0'} end
  local _, _, _, created = parse_head(job_fields(earlier, 'head')[1])
  return existing('replayed', earlier, created or '0')
end

-- Accept a job, of which `job` is the description; return its result.
local function accept(id, input)
  if known_ids then
    if known_ids[id] or redis.call('EXISTS', job_key(id)) == 1 then return known_result(id) end
    known_ids[id] = true
  end
  local replayed = job.key and replayed_result()
  if replayed then return replayed end
  local is_apart, rows = job.own_key_bytes > 0, job.rows
  local route, size = job.route or route_of(job.words), is_apart and job.own_key_bytes or #input
  local sums = route.totals
  job.route = route
  if sums.jobs + rows > route.max_jobs or sums.bytes + size > route.max_bytes then
    return {'full', int_text(sums.jobs), int_text(sums.bytes)}
  end
  local tenant_sums, refusal
  if job.quota then tenant_sums, refusal = check_quota(route.tenant, job.quota, size, rows) end
  if refusal then return refusal end
  if route.is_broken then return {'broken', route.lane, route.tenant} end
  if is_apart and not keep_input(id) then return {'lost', '0', '0'} end
  local created = int_text(sequence)
  local head = head_of(size, created)
  local is_claimed = not route.is_empty or #route.queued > 0
    or (job.quota and string.find(job.quota, 'claimed', 1, true))
  local handoff = not is_claimed and handoff_for(route, rows)
  local state = handoff and handoff.state .. created .. watcher or NEW_STATE
  if is_apart then
    write_record(job_key(id), head, state, job.facts)
  else
    write_record(job_key(id), head, state, job.facts, 'body', input)
  end
  if job.more.logged then
    publish_state(id, 'queued', '', true, route.tenant)
    if handoff then publish_state(id, 'running', '', true, route.tenant) end
  end
  if job.webhook then redis.call('HSET', job_key(id), 'webhook', job.webhook) end
  if not job.more.bulk then  -- it is no line of a bulk job
    route.listed[#route.listed + 1], route.listed[#route.listed + 2] = created, id
    route.is_trimmed = route.is_trimmed or tonumber(string.sub(id, -2), 16) % TRIM_INTERVAL == 0
  end
  if job.key then  -- remembered at least as long as the job may be open
    local ttl_s = math.max(idempotency_ttl_s, math.ceil(job.deadline_ms / 1000))
    remember_key(route.tenant, job.key, id, job.digest, ttl_s)
  end
  sequence = sequence + 1
  count_new(sums, size, rows)
  if tenant_sums then count_new(tenant_sums, size, rows) end
  timers[#timers + 1] = handoff and timer_of(handoff.lease_ends, job.deadline) or job.deadline_text
  timers[#timers + 1] = id
  if handoff then
    add_to_handoff(handoff, route.lane, {id, 1, head, not is_apart and input, created, job.facts}, rows)
  else
    route.queued[#route.queued + 1], route.queued[#route.queued + 2] = created, id
  end
  return created
end

-- Return whether some job of this call may exist already: its record does, or an id appears twice.
local function has_known_ids()
  local keys, seen = {}, {}
  for at = FIRST_JOB, #ARGV, 3 do
    local id = ARGV[at]
    if seen[id] then return true end
    seen[id], keys[#keys + 1] = true, job_key(id)
  end
  for at = 1, #keys, 1000 do
    if redis.call('EXISTS', unpack(keys, at, math.min(at + 999, #keys))) > 0 then return true end
  end
  return false
end

if not has_known_ids() then known_ids = nil end
for at = FIRST_JOB, #ARGV, 3 do
  if ARGV[at + 1] ~= '' then job = read_description(ARGV[at + 1]) end
  results[#results + 1] = accept(ARGV[at], ARGV[at + 2])
end
call_in_chunks('ZADD', root .. ':timers', timers)
write_records_of_many()
send_handoffs()
for _, route in ipairs(routes) do
  if #route.queued > 0 then
    if route.is_empty then redis.call('RPUSH', rotation_key(route.model, route.version, route.lane), route.tenant) end
    call_in_chunks('ZADD', route.queue, route.queued)
  end
  if #route.listed > 0 then
    local list = root .. ':tenant_jobs:' .. route.tenant
    call_in_chunks('ZADD', list, route.listed)
    redis.call('EXPIRE', list, list_ttl_s)
    if route.is_trimmed then redis.call('ZREMRANGEBYRANK', list, 0, -list_limit - 1) end
  end
end
for model, sums in pairs(totals) do
  if sums.new > 0 then
    local is_model = string.sub(model, 1, 1) ~= '@'
    redis.call('HSET', root .. ':open_totals', model .. ':jobs', int_text(sums.jobs),
      model .. ':bytes', int_text(sums.bytes), 'sequence', int_text(sequence - 1),
      unpack(is_model and {model .. ':submitted', int_text(sums.submitted + sums.new)} or {}))
  end
end
for _, route in ipairs(routes) do  -- wake a worker for each job that was enqueued, while there are any
  for _ = 1, found_no_worker(route.model, route.version) and 0 or #route.queued, 2 do
    if not wake_worker(route.model, route.version, route.lane) then break end
  end
end
return results
