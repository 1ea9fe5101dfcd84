-- Where jobs wait, and who waits for them: for scripts that say `with queues`.
local function line_key(model, version, lane, tenant)
  return root .. ':queue:' .. model .. ':' .. version .. ':' .. lane .. ':' .. tenant
end
local function ring_key(model, version, lane) return root .. ':tenant_rotation:' .. model .. ':' .. version .. ':' .. lane end
local function seats_key(model, version) return root .. ':free_slots:' .. model .. ':' .. version end
local function hosts_key(model, version) return root .. ':hosts:' .. model .. ':' .. version end
local function trial_key_of(model, version) return root .. ':isolation:' .. (model or '') .. ':' .. (version or '') end

-- Half a seat more tells that a worker keeps its free seats from bulk jobs for now: it looks for them by itself, and soon.
local KEPT_FROM_BULK = 0.5

local function is_for(lane, seats) return lane ~= 'bulk' or seats % 1 == 0 end

-- A worker notes its free seats, and that it takes a guest, under its id and the length of its leases in ms: a job that is handed
-- over to it has the lease that the worker itself would have asked for, whatever other processes have as LEASE_S.
local function noted_as(worker, lease_ms) return worker .. ' ' .. lease_ms end
local function noted(member) return string.match(member, '^(%S+) (%d+)$') end

-- Give the note of the worker that keeps most seats free for jobs of this lane (nil = of any), and how many; nil where none does.
local function freest(model, version, lane)
  local seats = seats_key(model, version)
  local found = redis.call('ZRANGE', seats, 0, 0, 'REV', 'WITHSCORES')
  if not found[1] or is_for(lane, found[2]) then return unpack(found) end
  found = redis.call('ZRANGE', seats, 0, -1, 'REV', 'WITHSCORES')
  for at = 1, #found, 2 do
    if is_for(lane, found[at + 1]) then return found[at], found[at + 1] end
  end
end

-- Wake the worker with most free seats for jobs of this lane, for a claim; false where none waits. One that died without a
-- word hears nothing: the next is tried.
local function wake(model, version, lane)
  while true do
    local member = freest(model, version, lane)
    if not member then return false end
    redis.call('ZREM', seats_key(model, version), member)
    local worker = noted(member)
    if worker and redis.call('PUBLISH', 'jitney:wake:' .. worker, model .. ' ' .. version) > 0 then return true end
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

-- Where a job stands in line: {model, version, lane, tenant, ticket}; and {its seat, who follows it, its log}. A suspect stands
-- in its cell's line, apart from all others. nil where its record does not tell.
local function place_of(id)
  local job = facts_of(id, 'model', 'version', 'lane', 'tenant', 'created', 'suspect_group', 'running_mark', 'followers', 'event_log')
  if not (job[1] and job[2] and job[3] and job[4] and tonumber(job[5])) then return nil end
  local more = {job[7], job[8], job[9]}
  if job[6] then return {job[1], job[2], 'suspect', job[6], job[5]}, more end
  return job, more
end

-- A tenant of which as many jobs run as may is parked (by claim): it is in no ring until one of its jobs ends, so that claims do
-- not pass it by again and again. `:parked:<tenant>` has the rings that it left, `:parked` the tenants by the ms since when.
-- Put a parked tenant back into the rings that it left, and wake a worker for each.
local function unpark(tenant)
  if redis.call('ZREM', root .. ':parked', tenant) == 0 then return end
  for _, left in ipairs(redis.call('SMEMBERS', root .. ':parked:' .. tenant)) do
    local model, version, lane = string.match(left, '^(%S+) (%S+) (%S+)$')
    if model and redis.call('EXISTS', line_key(model, version, lane, tenant)) == 1 then
      redis.call('RPUSH', ring_key(model, version, lane), tenant)
      wake(model, version, lane)
    end
  end
  redis.call('DEL', root .. ':parked:' .. tenant)
end

-- Of a tenant that may run so many at a time (`seat`: '@' and its name), one runs no more: its next is woken for.
local function unseat(seat)
  local load, field = root .. ':open_totals', seat .. ':running'
  if redis.call('HINCRBY', load, field, -1) <= 0 then redis.call('HDEL', load, field) end
  unpark(string.sub(seat, 2))
end

-- Take a queued id out of its line, or out of those that wait for their retry. A line that is empty leaves the ring.
local function unline(id)
  redis.call('ZREM', root .. ':retries', id)
  local place = place_of(id)
  if not place then return end
  local model, version, lane, tenant = unpack(place)
  local line = line_key(model, version, lane, tenant)
  redis.call('ZREM', line, id)
  if redis.call('EXISTS', line) == 1 then return end
  local parked = root .. ':parked:' .. tenant
  if redis.call('SREM', parked, model .. ' ' .. version .. ' ' .. lane) == 0 then
    redis.call('LREM', ring_key(model, version, lane), 1, tenant)
  elseif redis.call('EXISTS', parked) == 0 then
    redis.call('ZREM', root .. ':parked', tenant)
  end
end

-- Give a running job back to its line, or after a while; false where its record does not tell which line.
local function requeue(id, after_ms)
  local place, more = place_of(id)
  if not place then return false end
  local model, version, lane, tenant, ticket = unpack(place)
  redis.call('ZREM', root .. ':leases', id)
  redis.call('HSET', job_key(id), 'state', 'queued')
  redis.call('HDEL', job_key(id), 'owner', 'running_mark')
  local seat, followers, log = unpack(more)
  if seat then unseat(seat) end
  if after_ms then
    redis.call('ZADD', root .. ':retries', whole(now_ms + after_ms), id)
  else
    enline(id, ticket, model, version, lane, tenant)
    wake(model, version, lane)
  end
  changed(id, 'queued', followers, log)
  return true
end

local RESTING = '-'  -- in place of a trial's jobs: the last trial killed its worker just now
