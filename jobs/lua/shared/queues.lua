-- Queues and tenant rotations: where jobs wait (`with queues`, after `events`, `free_slots`).
local function queue_key(model, version, lane, tenant)
  return root .. ':queue:' .. model .. ':' .. version .. ':' .. lane .. ':' .. tenant
end
local function rotation_key(model, version, lane)
  return root .. ':tenant_rotation:' .. model .. ':' .. version .. ':' .. lane
end
local function isolation_key(model, version) return root .. ':isolation:' .. (model or '') .. ':' .. (version or '') end

-- Tell a running job's worker that its result is no longer needed.
local function notify_dropped(id)
  local owner = job_fields(id, 'owner')[1]
  if owner then redis.call('PUBLISH', 'jitney:wake:' .. owner, '-' .. id) end
end

-- Add an id to its queue, by its sequence number. The first id of a queue puts the tenant into the rotation.
local function enqueue(id, sequence, model, version, lane, tenant)
  local queue = queue_key(model, version, lane, tenant)
  if redis.call('EXISTS', queue) == 0 then redis.call('RPUSH', rotation_key(model, version, lane), tenant) end
  redis.call('ZADD', queue, sequence, id)
end

-- Return a job's place: {model, version, lane, tenant, sequence} and {running mark, followers, event log}. For a
-- suspect, the lane is 'suspect' and its suspect group stands in place of the tenant. Return nil if the record lacks
-- one of them.
local function place_of(id)
  local job = job_fields(id, 'model', 'version', 'lane', 'tenant', 'created', 'suspect_group', 'running_mark',
    'followers', 'event_log')
  if not (job[1] and job[2] and job[3] and job[4] and tonumber(job[5])) then return nil end
  local more = {job[7], job[8], job[9]}
  if job[6] then return {job[1], job[2], 'suspect', job[6], job[5]}, more end
  return job, more
end

-- Put a parked tenant back into the rotations that it left, and wake a worker for each. Claims park a tenant at its limit
-- of running jobs: they take it out of the rotation until one of its jobs ends, so that they need not skip it each time.
local function unpark(tenant)
  if redis.call('ZREM', root .. ':parked', tenant) == 0 then return end
  for _, rotation in ipairs(redis.call('SMEMBERS', root .. ':parked:' .. tenant)) do
    local model, version, lane = string.match(rotation, '^(%S+) (%S+) (%S+)$')
    if model and redis.call('EXISTS', queue_key(model, version, lane, tenant)) == 1 then
      redis.call('RPUSH', rotation_key(model, version, lane), tenant)
      wake_worker(model, version, lane)
    end
  end
  redis.call('DEL', root .. ':parked:' .. tenant)
end

-- Count one running job less of a tenant that has a limit of them. `running_mark`: '@' and the tenant.
local function release_running(running_mark)
  local totals, field = root .. ':open_totals', running_mark .. ':running'
  if redis.call('HINCRBY', totals, field, -1) <= 0 then redis.call('HDEL', totals, field) end
  unpark(string.sub(running_mark, 2))
end

-- Remove a queued id from its queue and from the retries. The tenant of an empty queue leaves the rotation.
local function dequeue(id)
  redis.call('ZREM', root .. ':retries', id)
  local place = place_of(id)
  if not place then return end
  local model, version, lane, tenant = unpack(place)
  local queue = queue_key(model, version, lane, tenant)
  redis.call('ZREM', queue, id)
  if redis.call('EXISTS', queue) == 1 then return end
  local parked = root .. ':parked:' .. tenant
  if redis.call('SREM', parked, model .. ' ' .. version .. ' ' .. lane) == 0 then
    redis.call('LREM', rotation_key(model, version, lane), 1, tenant)
  elseif redis.call('EXISTS', parked) == 0 then
    redis.call('ZREM', root .. ':parked', tenant)
  end
end

-- Return a running job to its queue, now or after `after_ms`. Return false if its record does not name the queue.
local function requeue(id, after_ms)
  local place, more = place_of(id)
  if not place then return false end
  local model, version, lane, tenant, sequence = unpack(place)
  redis.call('ZREM', root .. ':leases', id)
  redis.call('HSET', job_key(id), 'state', 'queued')
  redis.call('HDEL', job_key(id), 'owner', 'running_mark')
  local running_mark, followers, event_log = unpack(more)
  if running_mark then release_running(running_mark) end
  if after_ms then
    redis.call('ZADD', root .. ':retries', int_text(now_ms + after_ms), id)
  else
    enqueue(id, sequence, model, version, lane, tenant)
    wake_worker(model, version, lane)
  end
  publish_state(id, 'queued', followers, event_log)
  return true
end

local COOLDOWN = '-'  -- value of the isolation key in place of ids: the last isolated run has just killed its worker
