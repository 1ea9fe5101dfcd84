-- Attempts and ends of webhook deliveries: log, end, fail and trim them (`with delivery_log`, after `outbox`).
local function tenant_running_key(lane, tenant)
  return root .. ':tenant_deliveries_running:' .. lane .. ':' .. tenant
end

-- Delete a tenant's ended deliveries beyond `limit`, the oldest first, or else those older than `ttl_ms`; at most 10.
local function trim_ended(tenant, limit, ttl_ms)
  local ended_key, listed = root .. ':ended_deliveries:' .. tenant, root .. ':deliveries:' .. tenant
  local over = math.min(redis.call('ZCARD', ended_key) - limit, 10)
  local old = over > 0 and redis.call('ZRANGE', ended_key, 0, over - 1)
    or redis.call('ZRANGEBYSCORE', ended_key, '-inf', int_text(now_ms - ttl_ms), 'LIMIT', 0, 10)
  for _, delivery in ipairs(old) do
    redis.call('ZREM', ended_key, delivery)
    redis.call('ZREM', listed, delivery)
    redis.call('DEL', delivery_key(delivery))
  end
end

-- Delete a tenant's endpoints beyond `limit`, the least recently used first; at most 10. An endpoint with a delivery
-- stays.
local function trim_endpoints(tenant, limit)
  local listed = root .. ':endpoints:' .. tenant
  local over = math.min(redis.call('ZCARD', listed) - limit, 10)
  if over <= 0 then return end
  for _, endpoint in ipairs(redis.call('ZRANGE', listed, 0, over - 1)) do
    if redis.call('EXISTS', outbox_key(endpoint), deliveries_running_key(endpoint)) == 0 then
      redis.call('ZREM', listed, endpoint)
      redis.call('DEL', endpoint_key(endpoint))
      for _, lane in ipairs(LANES) do
        local was_due = redis.call('ZREM', due_key(lane) .. ':' .. tenant, endpoint) == 1
        if was_due then update_due(due_key(lane), tenant) end
      end
    else
      redis.call('ZADD', listed, int_text(now_ms), endpoint)  -- it is in use
    end
  end
end

-- End a delivery. It stays listed for `ttl_ms`, and can be sent again; `limit`: ended deliveries of the tenant that are
-- kept.
local function end_delivery(delivery, state, limit, ttl_ms)
  local tenant, endpoint = unpack(redis.call('HMGET', delivery_key(delivery), 'tenant', 'endpoint'))
  local keep_s = math.ceil(ttl_ms / 1000)
  redis.call('HSET', delivery_key(delivery), 'state', state, 'ended', int_text(now_ms))
  redis.call('PEXPIRE', delivery_key(delivery), ttl_ms)
  redis.call('ZADD', root .. ':ended_deliveries:' .. tenant, int_text(now_ms), delivery)
  redis.call('ZREM', open_deliveries_key(tenant), delivery)
  redis.call('EXPIRE', root .. ':ended_deliveries:' .. tenant, int_text(math.max(KEEP_S, keep_s)))
  renew_lists(tenant, endpoint, keep_s)
  redis.call('HINCRBY', root .. ':counts', 'webhooks:ended:' .. state, 1)
  trim_ended(tenant, tonumber(limit), ttl_ms)
  trim_endpoints(tenant, tonumber(limit))
end

-- Log an attempt, or the reason why none was made, as JSON. The newest 20 entries are kept.
local function log_attempt(delivery, entry)
  local number = redis.call('HINCRBY', delivery_key(delivery), 'tries', 1)
  redis.call('HSET', delivery_key(delivery), 'try:' .. number, entry)
  redis.call('HDEL', delivery_key(delivery), 'try:' .. (number - 20))
end

-- Fail a waiting delivery of an endpoint without another attempt.
local function fail_delivery(endpoint, delivery, reason, limit, ttl_ms)
  redis.call('ZREM', outbox_key(endpoint), delivery)
  if redis.call('EXISTS', delivery_key(delivery)) == 1 then
    log_attempt(delivery, cjson.encode({at_ms = now_ms, error = reason}))
    end_delivery(delivery, 'failed', limit, ttl_ms)
  end
end

-- Fail the oldest waiting deliveries of a tenant beyond `tenant_limit` open ones; at most 100. Running ones stay: their
-- attempts enforce the limit when they end.
local function enforce_tenant_limit(tenant, tenant_limit, limit, ttl_ms)
  local over = math.min(redis.call('ZCARD', open_deliveries_key(tenant)) - tenant_limit, 100)
  if over <= 0 then return end
  for _, delivery in ipairs(redis.call('ZRANGE', open_deliveries_key(tenant), 0, over - 1)) do
    local endpoint = redis.call('HGET', delivery_key(delivery), 'endpoint')
    if not endpoint then
      redis.call('ZREM', open_deliveries_key(tenant), delivery)
    elseif redis.call('ZSCORE', outbox_key(endpoint), delivery) then
      fail_delivery(endpoint, delivery, 'too many deliveries of this tenant wait, and this was the oldest', limit, ttl_ms)
      reschedule(endpoint)
    end
  end
end
