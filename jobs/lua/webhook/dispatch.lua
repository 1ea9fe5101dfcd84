-- Lease one lane's due deliveries, in turn by tenant and endpoint; fail the oldest ones above the limits.
-- ARGV     lane, count, slots (of the lane; once half of them are in use, no endpoint gets a second delivery, nor a
--          tenant while other tenants are due; the last quarter is for tenants without running deliveries), lease_ms,
--          stall_ms (an endpoint whose oldest attempt is older gets no other), limit of waiting deliveries per
--          endpoint, the same per tenant (beyond them the oldest fail), limit of ended deliveries that are kept, ttl_ms
--          of those
-- returns  {ms until the next is due (-1 = none), delivery, token, delivery, token …}
-- A tenant is served one endpoint per round. Lost leases are taken back. Safe to lose: a delivery whose attempt does not
-- begin is due again when its lease ends. Only the newest token counts.
-- with events, outbox, delivery_log
local lane, count, slots, lease_ms, stall_ms, endpoint_limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]),
  tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local tenant_limit, log_limit, ttl_ms = tonumber(ARGV[7]), ARGV[8], ARGV[9]
local RETRY_MS = 20  -- until a tenant or endpoint that may have no more now is tried again
local MAX_ENDPOINTS = 8  -- of one tenant to try in one round
local MAX_FAILED = 100  -- deliveries of one endpoint that one call fails
local leased = {0}
local leased_count = 0

-- Return deliveries whose lease has ended to the front of the endpoint's outbox.
local function reclaim(endpoint)
  for _, delivery in ipairs(redis.call('ZRANGEBYSCORE', deliveries_running_key(endpoint), '-inf', now_ms)) do
    redis.call('ZREM', deliveries_running_key(endpoint), delivery)
    redis.call('ZADD', outbox_key(endpoint), int_text(now_ms), delivery)
  end
end

local function fail_oldest(endpoint, latest, limit, reason)
  for _, delivery in ipairs(redis.call('ZRANGEBYSCORE', outbox_key(endpoint), '-inf', latest, 'LIMIT', 0, limit)) do
    fail_delivery(endpoint, delivery, reason, log_limit, ttl_ms)
  end
end

-- Lease up to `limit` due deliveries of an endpoint.
local function lease_due(tenant, endpoint, limit)
  if limit < 1 then return end
  local most = math.min(limit, count - leased_count)
  for _, delivery in ipairs(redis.call('ZRANGEBYSCORE', outbox_key(endpoint), '-inf', now_ms, 'LIMIT', 0, most)) do
    redis.call('ZREM', outbox_key(endpoint), delivery)
    if redis.call('HGET', delivery_key(delivery), 'state') == 'waiting' then
      local token = redis.call('HINCRBY', delivery_key(delivery), 'lease_token', 1)
      redis.call('ZADD', deliveries_running_key(endpoint), int_text(now_ms + lease_ms), delivery)
      redis.call('ZADD', tenant_running_key(lane, tenant), int_text(now_ms + lease_ms), delivery)
      redis.call('PEXPIRE', tenant_running_key(lane, tenant), lease_ms)
      leased[#leased + 1], leased[#leased + 2] = delivery, token
      leased_count = leased_count + 1
    end
  end
end

-- Return whether at most half of the lane's slots are free.
local function is_scarce() return 2 * (count - leased_count) <= slots end

local function serve_endpoint(tenant, endpoint)
  reclaim(endpoint)
  local paused_until, concurrency, not_before =
    unpack(redis.call('HMGET', endpoint_key(endpoint), 'paused_until', 'concurrency', 'not_before'))
  paused_until, concurrency, not_before = tonumber(paused_until), tonumber(concurrency) or 1, tonumber(not_before) or 0
  if paused_until and paused_until > now_ms then
    fail_oldest(endpoint, now_ms, MAX_FAILED, 'the endpoint is paused: it has failed for too long')
    return reschedule(endpoint)
  end
  local over = redis.call('ZCARD', outbox_key(endpoint)) - endpoint_limit
  if over > 0 then
    local reason = 'too many wait for this endpoint, and this was the oldest'
    fail_oldest(endpoint, '+inf', math.min(over, MAX_FAILED), reason)
  end
  local oldest = redis.call('ZRANGE', deliveries_running_key(endpoint), 0, 0, 'WITHSCORES')[2]
  if oldest and oldest - lease_ms + stall_ms <= now_ms then return reschedule(endpoint, now_ms + stall_ms) end
  local running = redis.call('ZCARD', deliveries_running_key(endpoint))
  -- An endpoint that has just stopped answering keeps the slots that it has; the other slots stay free for other
  -- endpoints.
  if is_scarce() and running > 0 and running < concurrency then return reschedule(endpoint, now_ms + RETRY_MS) end
  local room = concurrency - running
  if not_before <= now_ms then lease_due(tenant, endpoint, is_scarce() and math.min(room, 1) or room) end
  reschedule(endpoint)
end

-- Return the number of the tenant's running deliveries in this lane.
local function count_running(tenant)
  redis.call('ZREMRANGEBYSCORE', tenant_running_key(lane, tenant), '-inf', now_ms)
  return redis.call('ZCARD', tenant_running_key(lane, tenant))
end

local rotation = due_key(lane)
local function serve_tenant(tenant)
  local is_last_quarter = 4 * (count - leased_count) <= slots
  if (is_last_quarter or (is_scarce() and redis.call('ZCARD', rotation) > 1)) and count_running(tenant) > 0 then
    redis.call('ZADD', rotation, int_text(now_ms + RETRY_MS), tenant)
    return
  end
  enforce_tenant_limit(tenant, tenant_limit, log_limit, ttl_ms)
  local endpoints, before = rotation .. ':' .. tenant, leased_count
  for _, endpoint in ipairs(redis.call('ZRANGEBYSCORE', endpoints, '-inf', now_ms, 'LIMIT', 0, MAX_ENDPOINTS)) do
    -- An endpoint whose keys hold other types is removed; the other endpoints are still served.
    if not pcall(serve_endpoint, tenant, endpoint) then redis.call('ZREM', endpoints, endpoint) end
    if leased_count > before then break end
  end
  redis.call('ZREM', rotation, tenant)  -- then update_due puts it behind all others that are due
  update_due(rotation, tenant)
end

local tenants_left = 8 * count  -- in all rounds
repeat
  local before, limit = leased_count, math.min(4 * count, tenants_left)
  for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', rotation, '-inf', due_now(), 'LIMIT', 0, limit)) do
    if leased_count < count and not pcall(serve_tenant, tenant) then redis.call('ZREM', rotation, tenant) end
    tenants_left = tenants_left - 1
  end
until leased_count >= count or leased_count == before or tenants_left <= 0
local next_due = redis.call('ZRANGE', rotation, 0, 0, 'WITHSCORES')[2]
leased[1] = next_due and math.max(0, math.ceil(next_due - due_now())) or -1
return leased
