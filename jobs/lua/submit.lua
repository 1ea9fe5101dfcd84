-- Accept jobs, each under its ticket.
-- ARGV  gateway that waits for these jobs ('' = none), idempotency_ttl_s, own_cap, own_ttl_s, then how many jobs and bytes of one
--       model may be open: for lane interactive max_jobs, max_bytes, for lane bulk max_jobs, max_bytes; then per job 15 words:
--       id, model, version, lane, tenant, deadline_ms, kind, input, parameters, metadata, idempotency key, digest, v,
--       quota ('<jobs> <bytes>' that may be open of its tenant; '' = any), logged ('1' = somebody listens to its tenant's jobs)
-- gives per job {how, id, created_us}; how = 'new'
--                                      | 'replayed'  the key made this job before; created_us 0 where it is kept no more
--                                      | 'mismatch'  the key made a job of another request
--                                      | 'full'      too many jobs or bytes of this model are open; then: jobs, bytes
--                                      | 'quota'     the same of its tenant
--                                      | 'broken'    junk lies in place of its line; then: lane, tenant
-- Safe to send again: an id that is there already is answered as 'new' and left as it is.
-- What jobs share (their lines, sums and lists) is read and written once for all of them: commands are what a job costs.
local gateway, idempotency_ttl_s, own_cap, own_ttl_s = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local last = redis.pcall('GET', root .. ':clock')
local clock = type(last) == 'string' and tonumber(last) or 0
if clock > now_us + 86400 * 1000000 then clock = 0 end  -- nobody's clock was that far ahead: it is junk
local ticket = math.max(now_us, clock + 1)
local watcher = gateway ~= '' and {'watchers', gateway} or {}
local answers = {}
local loads = {}  -- model, or '@' and a tenant that has a quota → jobs and bytes that are open of it, and how many jobs of these are new
local lines = {}  -- line → model, version, lane, tenant; and its new members: ticket, id, ticket, id ...
local deadlines = {}  -- ms, id, ms, id ...

local function load_of(model)
  if not loads[model] then
    local open = redis.call('HMGET', root .. ':load', model .. ':jobs', model .. ':bytes')
    loads[model] = {jobs = tonumber(open[1]) or 0, bytes = tonumber(open[2]) or 0, new = 0}
  end
  return loads[model]
end

-- What was made before: its end is told to this gateway too.
local function known(how, id, created)
  if gateway ~= '' then watch(id, gateway) end
  return {how, id, created}
end

local function earlier(tenant, key, digest)
  local made = redis.call('GET', root .. ':idem:' .. tenant .. ':' .. key)
  if not made then return nil end
  local id, its_digest = string.match(made, '^(%S+) (%S*)$')
  if its_digest ~= digest then return {'mismatch', id, '0'} end
  return known('replayed', id, redis.call('HGET', job_key(id), 'created') or '0')
end

-- Give the line whose new members are noted; nil where junk lies in its place.
local function line_of(model, version, lane, tenant)
  local key = line_key(model, version, lane, tenant)
  if lines[key] == nil then
    local size = redis.pcall('ZCARD', key)
    local whose = {model = model, version = version, lane = lane, tenant = tenant, is_empty = size == 0}
    lines[key] = type(size) == 'number' and whose or false
  end
  return lines[key] or nil
end

local function accept(at)
  local id, model, version, lane, tenant, deadline_ms, kind, input, parameters, metadata, key, digest, v, quota,
    logged = unpack(ARGV, at, at + 14)
  local job = job_key(id)
  local its_created = redis.call('HGET', job, 'created')
  if its_created then return known('new', id, its_created) end
  local answer = key ~= '' and earlier(tenant, key, digest)
  if answer then return answer end
  local load, caps = load_of(model), lane == 'bulk' and 7 or 5
  if load.jobs + 1 > tonumber(ARGV[caps]) or load.bytes + #input > tonumber(ARGV[caps + 1]) then
    return {'full', whole(load.jobs), whole(load.bytes)}
  end
  local own, most_jobs, most_bytes = nil, string.match(quota, '^(%d+) (%d+)$')
  if most_jobs then
    own = load_of('@' .. tenant)
    if own.jobs + 1 > tonumber(most_jobs) or own.bytes + #input > tonumber(most_bytes) then
      return {'quota', whole(own.jobs), whole(own.bytes)}
    end
  end
  local line = line_of(model, version, lane, tenant)
  if not line then return {'broken', lane, tenant} end
  local created, deadline = whole(ticket), whole(now_ms + deadline_ms)
  ticket = ticket + 1
  redis.call('HSET', job, 'v', v, 'state', 'queued', 'model', model, 'version', version, 'lane', lane, 'tenant', tenant,
    'created', created, 'deadline', deadline, 'attempts', 0, 'kind', kind, 'input', input, 'size', #input,
    'parameters', parameters, 'metadata', metadata, unpack(watcher))
  if logged == '1' then
    redis.call('HSET', job, 'log', tenant)
    changed(id, 'queued', nil, tenant)
  end
  if own then
    redis.call('HSET', job, 'payer', '@' .. tenant)
    own.jobs, own.bytes, own.new = own.jobs + 1, own.bytes + #input, own.new + 1
  end
  if key ~= '' then
    redis.call('SET', root .. ':idem:' .. tenant .. ':' .. key, id .. ' ' .. digest, 'EX', idempotency_ttl_s)
  end
  load.jobs, load.bytes, load.new = load.jobs + 1, load.bytes + #input, load.new + 1
  local place = #line + 1
  line[place], line[place + 1] = created, id
  place = #deadlines + 1
  deadlines[place], deadlines[place + 1] = deadline, id
  return {'new', id, created}
end

for at = 9, #ARGV, 15 do answers[#answers + 1] = accept(at) end
for_many('ZADD', root .. ':deadlines', deadlines)
for key, line in pairs(lines) do if line then
  local own = root .. ':own:' .. line.tenant
  if line.is_empty then redis.call('RPUSH', ring_key(line.model, line.version, line.lane), line.tenant) end
  for_many('ZADD', key, line)
  for_many('ZADD', own, line)
  redis.call('ZREMRANGEBYRANK', own, 0, -own_cap - 1)
  redis.call('EXPIRE', own, own_ttl_s)
end end
for model, load in pairs(loads) do
  if load.new > 0 then
    redis.call('HSET', root .. ':load', model .. ':jobs', whole(load.jobs), model .. ':bytes', whole(load.bytes))
    if string.sub(model, 1, 1) ~= '@' then redis.call('HINCRBY', root .. ':counts', 'submitted:' .. model, load.new) end
  end
end
for _, line in pairs(lines) do  -- an idle worker for each job, as long as there are some
  for _ = 1, line and #line or 0, 2 do
    if not wake(line.model, line.version) then break end
  end
end
redis.call('SET', root .. ':clock', whole(ticket - 1))
return answers
