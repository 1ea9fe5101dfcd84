-- Accept new jobs: enqueue each, or hand it off to a worker with a free slot.
-- ARGV     gateway that waits for these jobs ('' = none), idempotency_ttl_s, list_limit (ids in a tenant's job list),
--          list_ttl_s, limits of one model's open jobs: max_jobs and max_bytes for lane interactive, then for lane
--          bulk; then per job 2 arguments: its facts in MessagePack, its input. The facts: id, model, version, lane,
--          tenant, deadline_ms, kind, parameters, metadata, idempotency key, request digest, record version, webhook
--          ('' = none), quota ('<jobs> <bytes>' that the tenant may have open, and 'claimed' if its running jobs are
--          limited, which excludes handoffs; '' = no limits), logged ('1' = a client listens to the tenant's events),
--          bulk (custom_id of a bulk job's line, which is not listed; '' = none)
-- returns  per job {result, id, created_us}; result = 'new'
--            | 'replayed'  the idempotency key created this job before; created_us is 0 if its record has expired
--            | 'mismatch'  the idempotency key belongs to another request
--            | 'full'      too many open jobs or bytes of this model; then: jobs, bytes
--            | 'quota'     too many open jobs or bytes of this tenant; then: jobs, bytes, bytes of its kept outputs
--            | 'broken'    the key of its queue holds another type; then: lane, tenant
-- Safe to send again: an id that exists is answered as 'new' and left as it is.
-- Keys that several jobs share are read and written once for all of them, because commands dominate the cost of a job.
-- with events, free_slots, queues, idempotency, handoff
local gateway, idempotency_ttl_s, list_limit, list_ttl_s = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local FIRST_LIMIT, FIRST_JOB = 5, 9  -- positions in ARGV
local NO_LIMIT = 2 ^ 53  -- stands for a missing quota
local TRIM_INTERVAL = 64  -- a tenant's job list is trimmed with one job in 64, chosen by its random id
local sequence  -- of the next job
local watcher_field = gateway ~= '' and {'watchers', gateway} or {}
local results = {}
local totals = {}  -- model, or '@' and a tenant with a quota → its open jobs and bytes, jobs submitted, new jobs
local queues = {}  -- key → model, version, lane, tenant, `new`, and as array: sequence, id, sequence, id …
local deadlines = {}  -- ms, id, ms, id …

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

-- Return the result for a job that exists; its end is notified to this gateway, too.
local function existing(result, id, created)
  if gateway ~= '' then add_watcher(id, gateway) end
  return {result, id, created}
end

-- Return the queue that gathers new members; nil if its key holds another type.
local function queue_of(model, version, lane, tenant)
  local key = queue_key(model, version, lane, tenant)
  if queues[key] == nil then
    local size = redis.pcall('ZCARD', key)
    local queue = {model = model, version = version, lane = lane, tenant = tenant, is_empty = size == 0, new = {}}
    queues[key] = type(size) == 'number' and queue or false
  end
  return queues[key] or nil
end

-- Accept the job at a position of ARGV; return its result.
local function accept(at)
  local id, model, version, lane, tenant, deadline_ms, kind, parameters, metadata, key, digest, v, webhook, quota,
    logged, bulk = unpack(cmsgpack.unpack(ARGV[at]))
  local input = ARGV[at + 1]
  local job = job_key(id)
  local known_created = redis.call('HGET', job, 'created')
  if known_created then return existing('new', id, known_created) end
  if key ~= '' then
    local earlier, is_same = find_by_key(tenant, key, digest)
    if earlier and not is_same then return {'mismatch', earlier, '0'} end
    if earlier then return existing('replayed', earlier, redis.call('HGET', job_key(earlier), 'created') or '0') end
  end
  local of_model, limits = totals_of(model), lane == 'bulk' and FIRST_LIMIT + 2 or FIRST_LIMIT
  if of_model.jobs + 1 > tonumber(ARGV[limits]) or of_model.bytes + #input > tonumber(ARGV[limits + 1]) then
    return {'full', int_text(of_model.jobs), int_text(of_model.bytes)}
  end
  local of_tenant, max_jobs, max_bytes = nil, string.match(quota, '^(%d+) (%d+)')
  local is_claimed = string.find(quota, 'claimed', 1, true)
  if max_jobs then
    of_tenant = totals_of('@' .. tenant)
    local bytes = of_tenant.bytes + of_tenant.outputs + #input
    if of_tenant.jobs + 1 > tonumber(max_jobs) or bytes > tonumber(max_bytes) then
      return {'quota', int_text(of_tenant.jobs), int_text(of_tenant.bytes), int_text(of_tenant.outputs)}
    end
  end
  local queue = queue_of(model, version, lane, tenant)
  if not queue then return {'broken', lane, tenant} end
  local created, deadline = int_text(sequence), int_text(now_ms + deadline_ms)
  sequence = sequence + 1
  local is_handoff = queue.is_empty and #queue == 0 and #input <= MAX_HANDOFF_BYTES and not is_claimed
  local handoff = is_handoff and handoff_for(model, version, lane)
  redis.call('HSET', job, 'v', v, 'state', handoff and 'running' or 'queued', 'model', model, 'version', version,
    'lane', lane, 'tenant', tenant, 'created', created, 'deadline', deadline, 'attempts', handoff and 1 or 0,
    'kind', kind, 'input', input, 'size', #input, 'parameters', parameters, 'metadata', metadata,
    unpack(handoff and {'owner', handoff.worker, 'started', created, unpack(watcher_field)} or watcher_field))
  if webhook ~= '' then redis.call('HSET', job, 'webhook', webhook) end
  if bulk ~= '' then
    redis.call('HSET', job, 'bulk', bulk)
  else
    queue.new[#queue.new + 1], queue.new[#queue.new + 2] = created, id
    queue.is_trimmed = queue.is_trimmed or tonumber(string.sub(id, -2), 16) % TRIM_INTERVAL == 0
  end
  if logged == '1' then
    redis.call('HSET', job, 'event_log', tenant)
    publish_state(id, 'queued', nil, tenant)
    if handoff then publish_state(id, 'running', nil, tenant) end
  end
  if of_tenant then
    local byte_quota = tonumber(max_bytes) < NO_LIMIT and {'byte_quota', 1} or {}
    redis.call('HSET', job, 'quota_mark', '@' .. tenant, unpack(byte_quota))
    of_tenant.jobs, of_tenant.bytes, of_tenant.new = of_tenant.jobs + 1, of_tenant.bytes + #input, of_tenant.new + 1
  end
  if key ~= '' then  -- remembered at least as long as the job may be open
    remember_key(tenant, key, id, digest, math.max(idempotency_ttl_s, math.ceil(deadline_ms / 1000)))
  end
  of_model.jobs, of_model.bytes, of_model.new = of_model.jobs + 1, of_model.bytes + #input, of_model.new + 1
  deadlines[#deadlines + 1], deadlines[#deadlines + 2] = deadline, id
  if handoff then
    add_to_handoff(handoff, lane, {id, 1, kind, input, parameters, created, created, deadline, 0, tenant})
  else
    queue[#queue + 1], queue[#queue + 2] = created, id
  end
  return {'new', id, created}
end

for at = FIRST_JOB, #ARGV, 2 do results[#results + 1] = accept(at) end
call_in_chunks('ZADD', root .. ':deadlines', deadlines)
call_in_chunks('ZADD', root .. ':leases', handoff_leases)
write_records_of_many()
send_handoffs()
for key, queue in pairs(queues) do if queue then
  local list = root .. ':tenant_jobs:' .. queue.tenant
  if queue.is_empty and #queue > 0 then
    redis.call('RPUSH', rotation_key(queue.model, queue.version, queue.lane), queue.tenant)
  end
  call_in_chunks('ZADD', key, queue)
  if #queue.new > 0 then
    call_in_chunks('ZADD', list, queue.new)
    redis.call('EXPIRE', list, list_ttl_s)
    if queue.is_trimmed then redis.call('ZREMRANGEBYRANK', list, 0, -list_limit - 1) end
  end
end end
for model, sums in pairs(totals) do
  if sums.new > 0 then
    local is_model = string.sub(model, 1, 1) ~= '@'
    redis.call('HSET', root .. ':open_totals', model .. ':jobs', int_text(sums.jobs),
      model .. ':bytes', int_text(sums.bytes), 'sequence', int_text(sequence - 1),
      unpack(is_model and {model .. ':submitted', int_text(sums.submitted + sums.new)} or {}))
  end
end
for _, queue in pairs(queues) do  -- wake a worker for each job that was enqueued, while there are any
  local has_no_worker = not queue or found_no_worker(queue.model, queue.version)
  for _ = 1, has_no_worker and 0 or #queue, 2 do
    if not wake_worker(queue.model, queue.version, queue.lane) then break end
  end
end
return results
