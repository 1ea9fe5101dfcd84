-- Deliveries, how they are written, handed out and settled: for scripts that say `with outbox`.
-- An endpoint is a tenant and an origin (scheme, host, port). What waits for it lies in its own line, what is in the air in
-- another set. `:due:<lane>:<tenant>` has the tenant's endpoints by the ms when something is to be done next for each, and
-- `:due:<lane>` the tenants, who take turns: however many origins a tenant names, it has one turn at a time.
local MOST_INLINE = 16 * 1024  -- bytes of output that ride along; a larger one is a link (and read by itself, see completion.lua)
local MOST_OF_A_JOB = 9  -- deliveries, each to another URL
local KEPT_S = 30 * 86400  -- longer than any schedule; what is used is kept on
local LANES = {'fast', 'slow'}

local function delivery_key(id) return root .. ':delivery:' .. id end
local function endpoint_key(endpoint) return root .. ':endpoint:' .. endpoint end
local function outbox_key(endpoint) return root .. ':outbox:' .. endpoint end
local function airborne_key(endpoint) return root .. ':deliveries_running:' .. endpoint end
local function unended_key(tenant) return root .. ':open_deliveries:' .. tenant end
local function due_key(lane) return root .. ':due:' .. lane end

-- The time as rings of tenants have it: ms with a fraction, so that two turns in one ms have an order.
local function ring_now() return string.format('%.3f', now_us / 1000) end

-- Give a tenant its place in a ring of tenants, which `<ring>:<tenant>` follows: the ms at which the first of its members is due,
-- not earlier than now. A tenant that is due already keeps its place: with more members it does not move forward.
local function take_place(ring, tenant)
  local first = tonumber(redis.call('ZRANGE', ring .. ':' .. tenant, 0, 0, 'WITHSCORES')[2])
  if not first then return redis.call('ZREM', ring, tenant) end
  local place, now = tonumber(redis.call('ZSCORE', ring, tenant)), ring_now()
  if place and place <= tonumber(now) and first <= tonumber(now) then return end
  redis.call('ZADD', ring, first > tonumber(now) and whole(first) or now, tenant)
end

-- Say when something is to be done next for an endpoint: a delivery is due and has room, or an attempt was lost.
-- `not_before`: in any case not earlier.
local function reschedule(endpoint, not_before)
  local facts = redis.call('HMGET', endpoint_key(endpoint), 'slow', 'not_before', 'concurrency', 'tenant')
  local airborne = redis.call('ZCARD', airborne_key(endpoint))
  local waiting = redis.call('ZRANGE', outbox_key(endpoint), 0, 0, 'WITHSCORES')
  local at, tenant = nil, facts[4]
  if not tenant then return end  -- junk: every endpoint that is in use has a record
  if waiting[1] and airborne < (tonumber(facts[3]) or 1) then
    at = math.max(tonumber(waiting[2]), tonumber(facts[2]) or 0, not_before or 0)
  end
  if airborne > 0 then
    local lost_at = tonumber(redis.call('ZRANGE', airborne_key(endpoint), 0, 0, 'WITHSCORES')[2])
    at = math.min(at or lost_at, lost_at)
  end
  for _, lane in ipairs(LANES) do
    local is_here, its_endpoints = at and lane == (facts[1] and 'slow' or 'fast'), due_key(lane) .. ':' .. tenant
    if is_here then redis.call('ZADD', its_endpoints, whole(at), endpoint) end
    if is_here or redis.call('ZREM', its_endpoints, endpoint) == 1 then take_place(due_key(lane), tenant) end
  end
end

-- What lists a tenant's deliveries, and its endpoint's record, last as long as the longest-lived delivery: renewed by each use.
local function keep_lists(tenant, endpoint, kept_s)
  local lists = {root .. ':endpoints:' .. tenant, root .. ':deliveries:' .. tenant, unended_key(tenant)}
  for _, key in ipairs({endpoint_key(endpoint), unpack(lists)}) do
    redis.call('EXPIRE', key, whole(math.max(KEPT_S, kept_s or 0)))
  end
end

-- The delivery of this job to this URL with these headers: its id, and whether it is there already. nil where a job has too
-- many.
local function delivery_of(id, url, headers)
  for nth = 1, MOST_OF_A_JOB do
    local delivery = id .. '-' .. nth
    local its_url, its_headers = unpack(redis.call('HMGET', delivery_key(delivery), 'url', 'headers'))
    if not its_url then return delivery, false end
    if its_url == url and (its_headers or '') == headers then return delivery, true end
  end
end

-- Read a webhook as a job's record has it: `<origin> <URL> <ends ...>`, and on a line of its own the headers of the receiver, as
-- JSON. Gives its parts; nil where it is none.
local function read_webhook(webhook)
  local asked, headers = string.match(webhook, '^([^\n]*)\n?(.*)$')
  local origin, url, ends = string.match(asked, '^(%S+) (%S+) ?(.*)$')
  return origin, url, ends, headers
end

-- Write down a delivery. `told`: what is told, in JSON; `size`: bytes of the output that it tells of, or has a link to;
-- `headers`: those of the receiver, in JSON ('' = none).
local function write_delivery(delivery, id, tenant, event, origin, url, headers, told, size)
  local endpoint = string.sub(redis.sha1hex(tenant .. ' ' .. origin), 1, 16)
  redis.call('HSET', delivery_key(delivery), 'state', 'waiting', 'event', event, 'url', url, 'tenant', tenant, 'job', id,
    'endpoint', endpoint, 'created', whole(now_ms), 'tries', 0, 'tries_before_resend', 0, 'lease_token', 0, 'payload', told, 'output_bytes', size)
  if headers ~= '' then redis.call('HSET', delivery_key(delivery), 'headers', headers) end
  redis.call('EXPIRE', delivery_key(delivery), KEPT_S)
  redis.call('HSET', endpoint_key(endpoint), 'tenant', tenant, 'origin', origin)
  redis.call('ZADD', outbox_key(endpoint), whole(now_ms), delivery)
  redis.call('ZADD', root .. ':endpoints:' .. tenant, whole(now_ms), endpoint)
  redis.call('ZADD', root .. ':deliveries:' .. tenant, whole(now_ms), delivery)
  redis.call('ZADD', unended_key(tenant), whole(now_ms), delivery)
  keep_lists(tenant, endpoint)
  redis.call('HINCRBY', root .. ':counts', 'webhooks:posted', 1)
  reschedule(endpoint)
end

-- Write down that a job's end is to be told, where the webhook wants this end. Gives the delivery's id; nil where this end is not
-- wanted, or the job has too many.
local function post(id, state, webhook)
  local origin, url, ends, headers = read_webhook(webhook)
  if not url or (ends ~= '' and not string.find(' ' .. ends .. ' ', ' ' .. state .. ' ', 1, true)) then return nil end
  local delivery, there = delivery_of(id, url, headers)
  if not delivery or there then return delivery end
  local as_read = redis.call('HMGET', job_key(id), unpack(READ_FIELDS))
  local tenant, size = as_read[6] or '', tonumber(as_read[16]) or (as_read[12] and #as_read[12] or 0)
  if size > MOST_INLINE then as_read[12] = false end
  table.insert(as_read, 1, id)
  write_delivery(delivery, id, tenant, state, origin, url, headers, cjson.encode(as_read), size)
  return delivery
end
