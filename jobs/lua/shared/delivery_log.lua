-- Functions for webhook deliveries: log attempts, end deliveries, trim old ones (`with delivery_log`, after `outbox`).
local function flights_key(lane, tenant) return root .. ':tenant_deliveries_running:' .. lane .. ':' .. tenant end

-- Ended deliveries of a tenant beyond `most`, the oldest first, and those that were kept long enough; some at a time.
local function trim(tenant, most, ttl_ms)
  local ended_key, listed = root .. ':ended_deliveries:' .. tenant, root .. ':deliveries:' .. tenant
  local over = math.min(redis.call('ZCARD', ended_key) - most, 10)
  local old = over > 0 and redis.call('ZRANGE', ended_key, 0, over - 1)
    or redis.call('ZRANGEBYSCORE', ended_key, '-inf', whole(now_ms - ttl_ms), 'LIMIT', 0, 10)
  for _, delivery in ipairs(old) do
    redis.call('ZREM', ended_key, delivery)
    redis.call('ZREM', listed, delivery)
    redis.call('DEL', delivery_key(delivery))
  end
end

-- Forget the endpoints of a tenant beyond `most`, the ones used longest ago first. One with a delivery is kept.
local function trim_endpoints(tenant, most)
  local listed = root .. ':endpoints:' .. tenant
  local over = math.min(redis.call('ZCARD', listed) - most, 10)
  if over <= 0 then return end
  for _, endpoint in ipairs(redis.call('ZRANGE', listed, 0, over - 1)) do
    if redis.call('EXISTS', outbox_key(endpoint), airborne_key(endpoint)) == 0 then
      redis.call('ZREM', listed, endpoint)
      redis.call('DEL', endpoint_key(endpoint))
      for _, lane in ipairs(LANES) do
        local is_due = redis.call('ZREM', due_key(lane) .. ':' .. tenant, endpoint) == 1
        if is_due then take_place(due_key(lane), tenant) end
      end
    else
      redis.call('ZADD', listed, whole(now_ms), endpoint)  -- it is in use
    end
  end
end

-- A delivery has ended: it stays for a while, to be looked at and sent again.
local function end_delivery(delivery, state, log, ttl_ms)
  local tenant, endpoint = unpack(redis.call('HMGET', delivery_key(delivery), 'tenant', 'endpoint'))
  local kept_s = math.ceil(ttl_ms / 1000)
  redis.call('HSET', delivery_key(delivery), 'state', state, 'ended', whole(now_ms))
  redis.call('PEXPIRE', delivery_key(delivery), ttl_ms)
  redis.call('ZADD', root .. ':ended_deliveries:' .. tenant, whole(now_ms), delivery)
  redis.call('ZREM', unended_key(tenant), delivery)
  redis.call('EXPIRE', root .. ':ended_deliveries:' .. tenant, whole(math.max(KEPT_S, kept_s)))
  keep_lists(tenant, endpoint, kept_s)
  redis.call('HINCRBY', root .. ':counts', 'webhooks:ended:' .. state, 1)
  trim(tenant, tonumber(log), ttl_ms)
  trim_endpoints(tenant, tonumber(log))
end

-- Note an attempt, or what stood in place of one; the newest 20 are kept.
local function note(delivery, entry)
  local nth = redis.call('HINCRBY', delivery_key(delivery), 'tries', 1)
  redis.call('HSET', delivery_key(delivery), 'try:' .. nth, entry)
  redis.call('HDEL', delivery_key(delivery), 'try:' .. (nth - 20))
end
