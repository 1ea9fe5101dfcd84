-- Take up to `want` waiting jobs of one model version under a lease.
-- ARGV  model, version, worker, lease_ms, want, bulk_share (one seat in so many is bulk's while both lanes wait), ttl_ms,
--       v (the record version that the worker reads)
-- gives per job {id, attempt, kind, input, parameters, created_us, claimed_us, deadline_ms}
-- Jobs whose deadline has passed end here as expired, and records nobody can read as failed. Finding too few, the worker is noted as idle: the next submit
-- wakes it. Safe to lose: jobs whose answer never arrives go back when their lease ends.
local model, version, worker, lease_ms, want = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local bulk_share, ttl_ms, version_read = tonumber(ARGV[6]), ARGV[7], ARGV[8]
local UNREADABLE = '{"code":"unreadable_job","message":"the record in the queue can not be read","status":422}'
local claimed = {}

local function seat(id)
  local job = redis.call('HMGET', job_key(id), 'state', 'deadline', 'kind', 'input', 'parameters', 'created', 'v')
  if job[1] ~= 'queued' then return end
  local readable = tonumber(job[2]) and job[3] and job[4] and job[5] and tonumber(job[6]) and job[7] == version_read
  if not readable then return conclude(id, 'failed', ttl_ms, 'error', UNREADABLE) end
  if tonumber(job[2]) <= now_ms then return conclude(id, 'expired', ttl_ms, 'error', EXPIRED) end
  local attempt = redis.call('HINCRBY', job_key(id), 'attempts', 1)
  redis.call('HSET', job_key(id), 'state', 'running', 'owner', worker, 'started', whole(now_us))
  redis.call('ZADD', root .. ':leases', whole(now_ms + lease_ms), id)
  claimed[#claimed + 1] = {id, attempt, job[3], job[4], job[5], job[6], whole(now_us), job[2]}
end

-- Fill up to `seats` more from a lane; its tenants take turns.
local function fill(lane, seats)
  local ring, goal = ring_key(model, version, lane), #claimed + seats
  local tenants = redis.call('LLEN', ring)
  while #claimed < goal and tenants > 0 do
    local tenant = redis.call('LPOP', ring)
    local line = line_key(model, version, lane, tenant)
    local popped = redis.call('ZPOPMIN', line, math.ceil((goal - #claimed) / tenants))
    for at = 1, #popped, 2 do seat(popped[at]) end
    if redis.call('EXISTS', line) == 1 then redis.call('RPUSH', ring, tenant) end
    tenants = redis.call('LLEN', ring)
  end
end

local given = tonumber(redis.call('HGET', root .. ':turns', model .. ':' .. version)) or 0
local for_bulk = math.floor((given + want) / bulk_share) - math.floor(given / bulk_share)
fill('bulk', for_bulk)
fill('interactive', want - #claimed)
fill('bulk', want - #claimed)
if #claimed > 0 then redis.call('HINCRBY', root .. ':turns', model .. ':' .. version, #claimed) end
if #claimed < want then
  redis.call('SADD', idle_key(model, version), worker)
  redis.call('EXPIRE', idle_key(model, version), 60)
else
  redis.call('SREM', idle_key(model, version), worker)
end
notify()
return claimed
