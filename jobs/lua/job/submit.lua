-- Accept jobs, each under its ticket.
-- ARGV  gateway that waits for these jobs ('' = none), idempotency_ttl_s, own_cap, own_ttl_s, then how many jobs and bytes of
--       one model may be open: for lane interactive max_jobs, max_bytes, for lane bulk the same; then per job 2 words, its facts in MessagePack and its input. The facts: id, model, version, lane, tenant, deadline_ms, kind, parameters,
--       metadata, idempotency key, digest, v, webhook ('' = none), quota ('<jobs> <bytes>' that may be open of its tenant, and
--       'claimed' where only so many may run; '' = any number), logged ('1' = somebody listens to its tenant's jobs), bulk (the
--       custom_id of a bulk's line; '' = of none: only such jobs are listed)
-- gives per job {how, id, created_us}; how = 'new'
--                                      | 'replayed'  the key made this job before; created_us 0 where it is kept no more
--                                      | 'mismatch'  the key made a job of another request
--                                      | 'full'      too many jobs or bytes of this model are open; then: jobs, bytes
--                                      | 'quota'     the same of its tenant
--                                      | 'broken'    junk lies in place of its line; then: lane, tenant
-- Safe to send again: an id that is there already is answered as 'new' and left as it is.
-- What jobs share (their lines, sums and lists) is read and written once for all of them: commands are what a job costs.
-- Where nobody waits in line and a worker keeps seats free, a small job is handed over to it at once, under a lease of the
-- length that the worker noted with its seats: it hears {'<model> <version>', seats left, the jobs as claim gives them, how many are bulk's} in MessagePack, whose encoder
-- copies an input once.
-- Where others wait and its tenant has nobody in line, a host takes it as its guest ('guest' in place of the seats left).
-- with events, queues
local gateway, idempotency_ttl_s, own_cap, own_ttl_s = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local FIRST_CAP, FIRST_JOB = 5, 9
local OWN_STEP = 64  -- one job in so many has its tenant's list cut to what it may hold: told by its id, which is random
local HANDED_BYTES = 32 * 1024  -- of one input: larger ones are fetched, so that no channel is filled with them
local ticket  -- the next
local watcher = gateway ~= '' and {'watchers', gateway} or {}
local answers = {}
local loads = {}  -- model, or '@' and a tenant with a quota → jobs and bytes open of it, jobs submitted, how many of them now
local lines = {}  -- line → model, version, lane, tenant, all that is new; and its new members: ticket, id, ticket, id ...
local deadlines = {}  -- ms, id, ms, id ...
local keyed = {}  -- record of an Idempotency-Key that many jobs share → place, what it made, place, what it made ...; kept_s
local leases = {}  -- ms, id, ms, id ... of those that are handed over
local takers = {}  -- model version → the worker that keeps most seats free for it, how many, and the jobs it is handed

-- Tickets only grow, whatever the server's clock does.
local function ticket_after(last)
  if last > now_us + 86400 * 1000000 then last = 0 end  -- nobody's clock was that far ahead: it is junk
  return math.max(now_us, last + 1)
end

local function load_of(model)
  if not loads[model] then
    local sums = redis.call('HMGET', root .. ':open_totals', model .. ':jobs', model .. ':bytes', model .. ':submitted', 'sequence')
    loads[model] = {jobs = tonumber(sums[1]) or 0, bytes = tonumber(sums[2]) or 0, submitted = tonumber(sums[3]) or 0, new = 0}
    ticket = ticket or ticket_after(tonumber(sums[4]) or 0)
  end
  return loads[model]
end

-- What was made before: its end is told to this gateway too.
local function known(how, id, created)
  if gateway ~= '' then watch(id, gateway) end
  return {how, id, created}
end

-- Where it is kept what a key made; and under which field, for one of many jobs of a request: its place in that.
local function made_by(tenant, key)
  local shared, place = string.match(key, '^(%S+) (%d+)$')
  if shared then return root .. ':idempotency_many:' .. tenant .. ':' .. shared, place end
  return root .. ':idempotency:' .. tenant .. ':' .. key
end

local function earlier(tenant, key, digest)
  local record, place = made_by(tenant, key)
  local made
  if place then made = redis.call('HGET', record, place) else made = redis.call('GET', record) end
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
    local whose = {model = model, version = version, lane = lane, tenant = tenant, is_empty = size == 0, new = {}}
    lines[key] = type(size) == 'number' and whose or false
  end
  return lines[key] or nil
end

-- Give the worker of this model version that keeps most seats free, and listens; nil where none does, or not for this lane.
-- `member`: its note among the seats.
local function taker_of(model, version, lane)
  local name = model .. ' ' .. version
  while takers[name] == nil do
    local seats = seats_key(model, version)
    local member, free = freest(model, version)
    local worker, lease_ms = noted(member or '')
    if not member then
      takers[name] = false
    elseif not worker or redis.call('PUBSUB', 'NUMSUB', 'jitney:wake:' .. worker)[2] == 0 then
      redis.call('ZREM', seats, member)
    else
      takers[name] = {seats = seats, member = member, worker = worker, lease_ends = whole(now_ms + lease_ms),
        takes_bulk = is_for('bulk', free), free = math.floor(free), jobs = {}, bulk = 0}
    end
  end
  local taker = takers[name]
  return taker and (lane ~= 'bulk' or taker.takes_bulk) and taker or nil
end

-- Give a worker that takes one guest of this model version more than it has seats, and listens; nil where none does.
local function host_of(model, version, lane)
  local hosts = hosts_key(model, version)
  while lane == 'interactive' and redis.call('EXISTS', ring_key(model, version, lane)) == 1 do
    local member = redis.call('SPOP', hosts)
    if not member then return nil end
    local worker, lease_ms = noted(member)
    if worker and redis.call('PUBSUB', 'NUMSUB', 'jitney:wake:' .. worker)[2] > 0 then
      return {hosts = hosts, worker = worker, lease_ends = whole(now_ms + lease_ms), free = 1, jobs = {}, bulk = 0}
    end
  end
end

local function send(taker, name, left)
  redis.call('PUBLISH', 'jitney:wake:' .. taker.worker, cmsgpack.pack({name, left, taker.jobs, taker.bulk}))
end

-- Note that so many seats are free no more; gives how many are left.
local function take_seats(taker, count)
  local left = math.floor(redis.call('ZINCRBY', taker.seats, -count, taker.member))
  if left <= 0 then redis.call('ZREM', taker.seats, taker.member) end
  return left
end

-- Send a worker the jobs that it is handed.
local function hand_over(name)
  local taker = takers[name]
  takers[name] = nil
  if #taker.jobs > 0 then send(taker, name, take_seats(taker, #taker.jobs)) end
end

-- Seat a job that was accepted just now: where there is a taker or a host, at it, else in its line.
local function seat(taker, line, id, created, kind, input, parameters, deadline)
  if not taker then
    line[#line + 1], line[#line + 2] = created, id
    return
  end
  leases[#leases + 1], leases[#leases + 2] = taker.lease_ends, id
  taker.jobs[#taker.jobs + 1] = {id, 1, kind, input, parameters, created, created, deadline, 0, line.tenant}
  taker.free = taker.free - 1
  if line.lane == 'bulk' then taker.bulk = taker.bulk + 1 end
  if taker.hosts then
    send(taker, line.model .. ' ' .. line.version, 'guest')
  elseif taker.free <= 0 then
    hand_over(line.model .. ' ' .. line.version)
  end
end

local function accept(at)
  local id, model, version, lane, tenant, deadline_ms, kind, parameters, metadata, key, digest, v, webhook, quota, logged,
    bulk = unpack(cmsgpack.unpack(ARGV[at]))
  local input = ARGV[at + 1]
  local job = job_key(id)
  local its_created = redis.call('HGET', job, 'created')
  if its_created then return known('new', id, its_created) end
  local answer = key ~= '' and earlier(tenant, key, digest)
  if answer then return answer end
  local load, caps = load_of(model), lane == 'bulk' and FIRST_CAP + 2 or FIRST_CAP
  if load.jobs + 1 > tonumber(ARGV[caps]) or load.bytes + #input > tonumber(ARGV[caps + 1]) then
    return {'full', whole(load.jobs), whole(load.bytes)}
  end
  local own, most_jobs, most_bytes = nil, string.match(quota, '^(%d+) (%d+)')
  local is_claimed = string.find(quota, 'claimed', 1, true)
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
  local is_first = line.is_empty and #line == 0 and #input <= HANDED_BYTES and not is_claimed
  local taker = is_first and (taker_of(model, version, lane) or host_of(model, version, lane))
  redis.call('HSET', job, 'v', v, 'state', taker and 'running' or 'queued', 'model', model, 'version', version, 'lane', lane,
    'tenant', tenant, 'created', created, 'deadline', deadline, 'attempts', taker and 1 or 0, 'kind', kind, 'input', input,
    'size', #input, 'parameters', parameters, 'metadata', metadata,
    unpack(taker and {'owner', taker.worker, 'started', created, unpack(watcher)} or watcher))
  if webhook ~= '' then redis.call('HSET', job, 'webhook', webhook) end
  if bulk ~= '' then
    redis.call('HSET', job, 'bulk', bulk)
  else
    line.new[#line.new + 1], line.new[#line.new + 2] = created, id
    line.is_cut = line.is_cut or tonumber(string.sub(id, -2), 16) % OWN_STEP == 0
  end
  if logged == '1' then
    redis.call('HSET', job, 'event_log', tenant)
    changed(id, 'queued', nil, tenant)
    if taker then changed(id, 'running', nil, tenant) end
  end
  if own then
    redis.call('HSET', job, 'quota_mark', '@' .. tenant)
    own.jobs, own.bytes, own.new = own.jobs + 1, own.bytes + #input, own.new + 1
  end
  if key ~= '' then
    local record, place = made_by(tenant, key)
    local kept_s = math.max(idempotency_ttl_s, math.ceil(deadline_ms / 1000))  -- as long as the job may be open, at least
    if place then
      keyed[record] = keyed[record] or {kept_s = 0}
      keyed[record].kept_s = math.max(kept_s, keyed[record].kept_s)
      table.insert(keyed[record], place)
      table.insert(keyed[record], id .. ' ' .. digest)
    else
      redis.call('SET', record, id .. ' ' .. digest, 'EX', kept_s)
    end
  end
  load.jobs, load.bytes, load.new = load.jobs + 1, load.bytes + #input, load.new + 1
  deadlines[#deadlines + 1], deadlines[#deadlines + 2] = deadline, id
  seat(taker, line, id, created, kind, input, parameters, deadline)
  return {'new', id, created}
end

for at = FIRST_JOB, #ARGV, 2 do answers[#answers + 1] = accept(at) end
for_many('ZADD', root .. ':deadlines', deadlines)
for_many('ZADD', root .. ':leases', leases)
for record, made in pairs(keyed) do
  for_many('HSET', record, made)
  redis.call('EXPIRE', record, math.max(made.kept_s, redis.call('TTL', record)))
end
for name, taker in pairs(takers) do
  if taker then hand_over(name) end
end
for key, line in pairs(lines) do if line then
  local own = root .. ':tenant_jobs:' .. line.tenant
  if line.is_empty and #line > 0 then
    redis.call('RPUSH', ring_key(line.model, line.version, line.lane), line.tenant)
  end
  for_many('ZADD', key, line)
  if #line.new > 0 then
    for_many('ZADD', own, line.new)
    redis.call('EXPIRE', own, own_ttl_s)
    if line.is_cut then redis.call('ZREMRANGEBYRANK', own, 0, -own_cap - 1) end
  end
end end
for model, load in pairs(loads) do
  if load.new > 0 then
    local submitted = string.sub(model, 1, 1) ~= '@' and {model .. ':submitted', whole(load.submitted + load.new)} or {}
    redis.call('HSET', root .. ':open_totals', model .. ':jobs', whole(load.jobs), model .. ':bytes', whole(load.bytes),
      'sequence', whole(ticket - 1), unpack(submitted))
  end
end
for _, line in pairs(lines) do  -- a worker for each job that waits, as long as there are some
  local nobody = not line or takers[line.model .. ' ' .. line.version] == false
  for _ = 1, nobody and 0 or #line, 2 do
    if not wake(line.model, line.version, line.lane) then break end
  end
end
return answers
