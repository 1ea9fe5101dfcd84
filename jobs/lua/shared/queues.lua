-- Queues and tenant rotations: where jobs wait; also timers, isolation of suspects, notices to a job's worker
-- (`with queues`, after `events`, `free_slots`).
local function queue_key(model, version, lane, tenant)
  return root .. ':queue:' .. model .. ':' .. version .. ':' .. lane .. ':' .. tenant
end
local function rotation_key(model, version, lane)
  return root .. ':tenant_rotation:' .. model .. ':' .. version .. ':' .. lane
end

-- Return when a running job needs attention next: `:timers` has the end of its lease or its deadline, whichever is first,
-- and the deadline of a queued job.
local function timer_of(lease_end_ms, deadline_ms) return int_text(math.min(lease_end_ms, tonumber(deadline_ms))) end

local function isolation_key(model, version) return root .. ':isolation:' .. (model or '') .. ':' .. (version or '') end

-- Tell a running job's worker that its result is no longer needed.
local function notify_dropped(id)
  local _, _, owner = parse_state(job_fields(id, 'state')[1])
  if owner and owner ~= '-' then redis.call('PUBLISH', 'jitney:wake:' .. owner, '-' .. id) end
end

-- Add an id to its queue, by its sequence number. The first id of a queue puts the tenant into the rotation.
local function enqueue(id, sequence, model, version, lane, tenant)
  local queue = queue_key(model, version, lane, tenant)
  if redis.call('EXISTS', queue) == 0 then redis.call('RPUSH', rotation_key(model, version, lane), tenant) end
  redis.call('ZADD', queue, sequence, id)
end

-- Return a job's place in the queues: model, version, lane, tenant, sequence, deadline. For a suspect, the lane is
-- 'suspect' and its suspect group stands in place of the tenant. Return nil if the record cannot be read.
local function place_of(id)
  local head, suspect_group = unpack(job_fields(id, 'head', 'suspect_group'))
  local route, _, deadline, created = parse_head(head)
  if not route or not tonumber(created) or not tonumber(deadline) then return nil end
  if suspect_group then return route.model, route.version, 'suspect', suspect_group, created, deadline end
  return route.model, route.version, route.lane, route.tenant, created, deadline
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

-- Subtract the rows of a job from the running ones of a tenant that has a limit of them.
local function release_running(tenant, rows)
  local totals, field = root .. ':open_totals', '@' .. tenant .. ':running'
  if redis.call('HINCRBY', totals, field, -rows) <= 0 then redis.call('HDEL', totals, field) end
  unpark(tenant)
end

-- Remove a queued id from its queue and from the retries. The tenant of an empty queue leaves the rotation.
local function dequeue(id)
  redis.call('ZREM', root .. ':retries', id)
  local model, version, lane, tenant = place_of(id)
  if not model then return end
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
  local model, version, lane, tenant, sequence, deadline = place_of(id)
  if not model then return false end
  local words, head, facts = unpack(job_fields(id, 'state', 'head', 'facts'))
  local _, attempts, _, started, mark, watchers = parse_state(words)
  local owner, map = parse_head(head).tenant, unpack_facts(facts)
  redis.call('ZADD', root .. ':timers', deadline, id)
  redis.call('HSET', job_key(id), 'state', queued_words(attempts or 0, started or '-', watchers or ''))
  if mark == '+' then release_running(owner, rows_of(map)) end
  if after_ms then
    redis.call('ZADD', root .. ':retries', int_text(now_ms + after_ms), id)
  else
    enqueue(id, sequence, model, version, lane, tenant)
    wake_worker(model, version, lane)
  end
  publish_state(id, 'queued', watchers or '', map.logged, owner)
  return true
end

local COOLDOWN = '-'  -- value of the isolation key in place of ids: the last isolated run has just killed its worker
