-- Webhook deliveries: create them and schedule their endpoints; due times of tenants, also for steps of bulk jobs
-- (`with outbox`, after `events`).
-- An endpoint is a tenant and an origin (scheme, host, port). Its waiting deliveries lie in `:outbox:<endpoint>`, its
-- running ones in `:deliveries_running:<endpoint>`. `:due:<lane>:<tenant>` holds the tenant's endpoints by the ms at
-- which each is due, `:due:<lane>` the tenants in the order of service. A tenant is served once per round, however many
-- origins it has.
local MAX_INLINE_BYTES = 16 * 1024  -- of output in a notification; a larger one is a link (see completion.lua)
local MAX_DELIVERIES_PER_JOB = 9  -- each to another URL
local KEEP_S = 30 * 86400  -- longer than any retry schedule; each use restarts it
local LANES = {'fast', 'slow'}

local function delivery_key(id) return root .. ':delivery:' .. id end
local function endpoint_key(endpoint) return root .. ':endpoint:' .. endpoint end
local function outbox_key(endpoint) return root .. ':outbox:' .. endpoint end
local function deliveries_running_key(endpoint) return root .. ':deliveries_running:' .. endpoint end
local function open_deliveries_key(tenant) return root .. ':open_deliveries:' .. tenant end
local function due_key(lane) return root .. ':due:' .. lane end

-- Return the time as a score of a rotation by due times: ms with a fraction, so that two tenants of one ms have an
-- order.
local function due_now() return string.format('%.3f', now_us / 1000) end

-- Set a tenant's place in a rotation by due times, whose members' own times are in `<rotation>:<tenant>`: the ms at
-- which the first of them is due, but not before now. A tenant that is due already keeps its place: new members do not
-- move it forward.
local function update_due(rotation, tenant)
  local first = tonumber(redis.call('ZRANGE', rotation .. ':' .. tenant, 0, 0, 'WITHSCORES')[2])
  if not first then return redis.call('ZREM', rotation, tenant) end
  local place, now = tonumber(redis.call('ZSCORE', rotation, tenant)), due_now()
  if place and place <= tonumber(now) and first <= tonumber(now) then return end
  redis.call('ZADD', rotation, first > tonumber(now) and int_text(first) or now, tenant)
end

-- Set when an endpoint is due: when a delivery is due and may run, or when the lease of a running one ends. A delivery
-- is not due earlier than `not_before`.
local function reschedule(endpoint, not_before)
  local fields = redis.call('HMGET', endpoint_key(endpoint), 'slow', 'not_before', 'concurrency', 'tenant')
  local running = redis.call('ZCARD', deliveries_running_key(endpoint))
  local waiting = redis.call('ZRANGE', outbox_key(endpoint), 0, 0, 'WITHSCORES')
  local due_ms, tenant = nil, fields[4]
  if not tenant then return end  -- an invalid id: every endpoint in use has a record
  if waiting[1] and running < (tonumber(fields[3]) or 1) then
    due_ms = math.max(tonumber(waiting[2]), tonumber(fields[2]) or 0, not_before or 0)
  end
  if running > 0 then
    local lost_ms = tonumber(redis.call('ZRANGE', deliveries_running_key(endpoint), 0, 0, 'WITHSCORES')[2])
    due_ms = math.min(due_ms or lost_ms, lost_ms)
  end
  for _, lane in ipairs(LANES) do
    local is_here, endpoints = due_ms and lane == (fields[1] and 'slow' or 'fast'), due_key(lane) .. ':' .. tenant
    if is_here then redis.call('ZADD', endpoints, int_text(due_ms), endpoint) end
    if is_here or redis.call('ZREM', endpoints, endpoint) == 1 then update_due(due_key(lane), tenant) end
  end
end

-- Renew the lifetime of a tenant's lists of deliveries and of an endpoint's record, to outlive every delivery.
local function renew_lists(tenant, endpoint, keep_s)
  local lists = {root .. ':endpoints:' .. tenant, root .. ':deliveries:' .. tenant, open_deliveries_key(tenant)}
  for _, key in ipairs({endpoint_key(endpoint), unpack(lists)}) do
    redis.call('EXPIRE', key, int_text(math.max(KEEP_S, keep_s or 0)))
  end
end

-- Return the id of a job's delivery to this URL with these headers, and whether it exists. Return nil if the job has
-- too many deliveries.
local function find_delivery(id, url, headers)
  for number = 1, MAX_DELIVERIES_PER_JOB do
    local delivery = id .. '-' .. number
    local known_url, known_headers = unpack(redis.call('HMGET', delivery_key(delivery), 'url', 'headers'))
    if not known_url then return delivery, false end
    if known_url == url and (known_headers or '') == headers then return delivery, true end
  end
end

-- Parse the `webhook` field of a job, '<origin> <URL> <states …>' then on a second line the receiver's headers in
-- JSON. Return its four parts, or nil for an invalid one.
local function parse_webhook(webhook)
  local target, headers = string.match(webhook, '^([^\n]*)\n?(.*)$')
  local origin, url, states = string.match(target, '^(%S+) (%S+) ?(.*)$')
  return origin, url, states, headers
end

-- Create a delivery. `payload`: what it sends, in JSON; `output_bytes`: size of the output that the payload has or
-- links to; `headers`: the receiver's, in JSON ('' = none).
local function create_delivery(delivery, id, tenant, event, origin, url, headers, payload, output_bytes)
  local endpoint = string.sub(redis.sha1hex(tenant .. ' ' .. origin), 1, 16)
  redis.call('HSET', delivery_key(delivery), 'state', 'waiting', 'event', event, 'url', url, 'tenant', tenant,
    'job', id, 'endpoint', endpoint, 'created', int_text(now_ms), 'tries', 0, 'tries_before_resend', 0,
    'lease_token', 0, 'payload', payload, 'output_bytes', output_bytes)
  if headers ~= '' then redis.call('HSET', delivery_key(delivery), 'headers', headers) end
  redis.call('EXPIRE', delivery_key(delivery), KEEP_S)
  redis.call('HSET', endpoint_key(endpoint), 'tenant', tenant, 'origin', origin)
  redis.call('ZADD', outbox_key(endpoint), int_text(now_ms), delivery)
  redis.call('ZADD', root .. ':endpoints:' .. tenant, int_text(now_ms), endpoint)
  redis.call('ZADD', root .. ':deliveries:' .. tenant, int_text(now_ms), delivery)
  redis.call('ZADD', open_deliveries_key(tenant), int_text(now_ms), delivery)
  renew_lists(tenant, endpoint)
  redis.call('HINCRBY', root .. ':counts', 'webhooks:posted', 1)
  reschedule(endpoint)
end

-- Create the delivery for a job's end, if the webhook asks for this state. Return its id; nil if the webhook does not
-- ask for it or the job has too many deliveries.
local function deliver_end(id, state, webhook)
  local origin, url, states, headers = parse_webhook(webhook)
  if not url then return nil end
  if states ~= '' and not string.find(' ' .. states .. ' ', ' ' .. state .. ' ', 1, true) then return nil end
  local delivery, exists = find_delivery(id, url, headers)
  if not delivery or exists then return delivery end
  local job = read_job(id)
  local _, head, _, output, _, size = unpack(job)
  local route = parse_head(head)
  local output_bytes = tonumber(size) or (output and #output or 0)
  if output_bytes > MAX_INLINE_BYTES then job[4] = false end
  table.insert(job, 1, id)
  create_delivery(delivery, id, route and route.tenant or '', state, origin, url, headers, cmsgpack.pack(job), output_bytes)
  return delivery
end
