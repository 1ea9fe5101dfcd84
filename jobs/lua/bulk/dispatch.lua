-- Lease bulk jobs whose next step is due, in the order of the tenants, and reschedule steps whose lease has ended.
-- ARGV     count, slots (threads of the caller; once half of them are in use, no tenant gets a second step), lease_ms
-- returns  {ms until the next is due (-1 = none), bulk, token, bulk, token …}
-- A lost step may have killed its process, and so may another step beside it. From the third loss in a row on, the bulk
-- job waits longer before each new step.
-- with events, free_slots, queues, outbox, outputs, completion, bulk
local rotation, running_key, leased, leased_count = root .. ':bulk_due', root .. ':bulk_running', {-1}, 0
local count, slots, lease_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local RETRY_MS = 100  -- until a tenant that may have no second step is tried again; the end of its step comes first
local MAX_WAITING = 16  -- bulk jobs of a tenant to read in one round, to find one that need not wait
local running, lost = running_steps()
for _, step in ipairs(lost) do
  local bulk, tenant = unpack(step)
  redis.call('ZREM', running_key, bulk)
  schedule_step(bulk, tenant, now_ms)
  if redis.call('HEXISTS', bulk_key(bulk), 'open') == 1 then
    local losses = redis.call('HINCRBY', bulk_key(bulk), 'losses', 1)
    local wait_ms = losses > 2 and math.min(60000, 1000 * 2 ^ (losses - 2)) or 0
    redis.call('HSET', bulk_key(bulk), 'not_before', int_text(now_ms + wait_ms))
  end
end

-- Lease a step of a tenant, if one is due and the tenant may have it, and set the tenant's next place.
local function serve_tenant(tenant)
  if 2 * (count - leased_count) <= slots and running[tenant] then
    redis.call('ZADD', rotation, int_text(now_ms + RETRY_MS), tenant)
    return
  end
  local steps = rotation .. ':' .. tenant
  for _, bulk in ipairs(redis.call('ZRANGEBYSCORE', steps, '-inf', int_text(now_ms), 'LIMIT', 0, MAX_WAITING)) do
    local is_open, not_before = unpack(redis.call('HMGET', bulk_key(bulk), 'open', 'not_before'))
    local must_wait = is_open and not_before and tonumber(not_before) > now_ms  -- made due too early, after a fault
    if must_wait then
      redis.call('ZADD', steps, not_before, bulk)
    else
      redis.call('ZREM', steps, bulk)
    end
    if is_open and not must_wait then
      leased[#leased + 1], leased[#leased + 2] = bulk, redis.call('HINCRBY', bulk_key(bulk), 'lease_token', 1)
      redis.call('ZADD', running_key, int_text(now_ms + lease_ms), bulk)
      leased_count, running[tenant] = leased_count + 1, (running[tenant] or 0) + 1
      break
    end
  end
  redis.call('ZREM', rotation, tenant)  -- then update_due puts it behind all others that are due
  update_due(rotation, tenant)
end

repeat
  local before = leased_count
  for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', rotation, '-inf', due_now(), 'LIMIT', 0, 4 * count)) do
    if leased_count < count then serve_tenant(tenant) end
  end
until leased_count >= count or leased_count == before
for _, key in ipairs({rotation, running_key}) do
  local at = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  local wait_ms = at and math.max(0, math.ceil(at - due_now()))
  if wait_ms and (leased[1] < 0 or wait_ms < leased[1]) then leased[1] = wait_ms end
end
return leased
