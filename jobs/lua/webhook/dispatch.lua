-- Hand out deliveries that are due: each goes into the air for a while, and comes back to its line if nobody settles it.
-- Tenants take turns, and of a tenant its endpoints: one endpoint has its deliveries handed out in a turn.
-- ARGV  lane, want, slots (of the lane; once half of them are taken, no endpoint gets a second, nor a tenant while there are
--       others; the last quarter is for tenants that have none in the air), flight_ms (how long one may take), stall_ms (an
--       endpoint whose oldest attempt is older gets no other), most (deliveries that may wait for one endpoint; the oldest
--       beyond fail), most_of_tenant (likewise for all its endpoints together), and how many of those that have ended are
--       kept, and for how long
-- gives {ms until something is due (-1: nothing is), delivery, flight, delivery, flight ...}
-- Safe to lose: what is handed out and not begun comes back. A flight is one handing out; only the last one counts.
-- with events, outbox, delivery_log
local lane, want, slots, flight_ms, stall_ms, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]),
  tonumber(ARGV[5]), tonumber(ARGV[6])
local most_of_tenant, log, ttl_ms = tonumber(ARGV[7]), ARGV[8], ARGV[9]
local RETRY_MS = 20  -- until who may not have more right now is looked at again
local LOOKS = 8  -- endpoints of one tenant that are looked at in its turn
local AT_ONCE = 100  -- deliveries of one endpoint that one call fails
local handed = {0}
local count_handed = 0

-- What nobody settled in time goes back to its line, at the front.
local function take_back(endpoint)
  for _, delivery in ipairs(redis.call('ZRANGEBYSCORE', airborne_key(endpoint), '-inf', now_ms)) do
    redis.call('ZREM', airborne_key(endpoint), delivery)
    redis.call('ZADD', outbox_key(endpoint), whole(now_ms), delivery)
  end
end

local function fail(endpoint, delivery, why)
  redis.call('ZREM', outbox_key(endpoint), delivery)
  if redis.call('EXISTS', delivery_key(delivery)) == 1 then
    note(delivery, cjson.encode({at_ms = now_ms, error = why}))
    end_delivery(delivery, 'failed', log, ttl_ms)
  end
end

local function give_up(endpoint, up_to, count, why)
  for _, delivery in ipairs(redis.call('ZRANGEBYSCORE', outbox_key(endpoint), '-inf', up_to, 'LIMIT', 0, count)) do
    fail(endpoint, delivery, why)
  end
end

-- Fail the oldest deliveries of a tenant that has too many. One under way is left to its attempt.
local function bound(tenant)
  local over = math.min(redis.call('ZCARD', unended_key(tenant)) - most_of_tenant, AT_ONCE)
  if over <= 0 then return end
  for _, delivery in ipairs(redis.call('ZRANGE', unended_key(tenant), 0, over - 1)) do
    local endpoint = redis.call('HGET', delivery_key(delivery), 'endpoint')
    if not endpoint then
      redis.call('ZREM', unended_key(tenant), delivery)
    elseif redis.call('ZSCORE', outbox_key(endpoint), delivery) then
      fail(endpoint, delivery, 'too many deliveries of this tenant wait, and this was the oldest')
      reschedule(endpoint)
    end
  end
end

local function hand_out(tenant, endpoint, room)
  if room < 1 then return end
  local due = redis.call('ZRANGEBYSCORE', outbox_key(endpoint), '-inf', now_ms, 'LIMIT', 0, math.min(room, want - count_handed))
  for _, delivery in ipairs(due) do
    redis.call('ZREM', outbox_key(endpoint), delivery)
    if redis.call('HGET', delivery_key(delivery), 'state') == 'waiting' then
      local flight = redis.call('HINCRBY', delivery_key(delivery), 'lease_token', 1)
      redis.call('ZADD', airborne_key(endpoint), whole(now_ms + flight_ms), delivery)
      redis.call('ZADD', flights_key(lane, tenant), whole(now_ms + flight_ms), delivery)
      redis.call('PEXPIRE', flights_key(lane, tenant), flight_ms)
      handed[#handed + 1], handed[#handed + 2] = delivery, flight
      count_handed = count_handed + 1
    end
  end
end

local function is_scarce() return 2 * (want - count_handed) <= slots end

local function serve(tenant, endpoint)
  take_back(endpoint)
  local facts = redis.call('HMGET', endpoint_key(endpoint), 'paused_until', 'concurrency', 'not_before')
  local paused_until, not_before = tonumber(facts[1]), tonumber(facts[3]) or 0
  if paused_until and paused_until > now_ms then
    give_up(endpoint, now_ms, AT_ONCE, 'the endpoint is paused: it has failed for too long')
    return reschedule(endpoint)
  end
  local over = redis.call('ZCARD', outbox_key(endpoint)) - most
  if over > 0 then give_up(endpoint, '+inf', math.min(over, AT_ONCE), 'too many wait for this endpoint, and this was the oldest') end
  local oldest = redis.call('ZRANGE', airborne_key(endpoint), 0, 0, 'WITHSCORES')[2]
  if oldest and oldest - flight_ms + stall_ms <= now_ms then return reschedule(endpoint, now_ms + stall_ms) end
  local room, airborne = tonumber(facts[2]) or 1, redis.call('ZCARD', airborne_key(endpoint))
  -- Who has just died holds what it has; whoever else comes finds a slot all the same.
  if is_scarce() and airborne > 0 and airborne < room then return reschedule(endpoint, now_ms + RETRY_MS) end
  if not_before <= now_ms then hand_out(tenant, endpoint, is_scarce() and math.min(room - airborne, 1) or room - airborne) end
  reschedule(endpoint)
end

-- Deliveries of a tenant that are in the air, in this lane.
local function in_the_air(tenant)
  redis.call('ZREMRANGEBYSCORE', flights_key(lane, tenant), '-inf', now_ms)
  return redis.call('ZCARD', flights_key(lane, tenant))
end

local ring = due_key(lane)
local function give_turn(tenant)
  local is_last_quarter = 4 * (want - count_handed) <= slots
  if (is_last_quarter or (is_scarce() and redis.call('ZCARD', ring) > 1)) and in_the_air(tenant) > 0 then
    redis.call('ZADD', ring, whole(now_ms + RETRY_MS), tenant)
    return
  end
  bound(tenant)
  local its_endpoints, before = ring .. ':' .. tenant, count_handed
  for _, endpoint in ipairs(redis.call('ZRANGEBYSCORE', its_endpoints, '-inf', now_ms, 'LIMIT', 0, LOOKS)) do
    -- Where junk lies in place of what is an endpoint's, the others are served all the same.
    if not pcall(serve, tenant, endpoint) then redis.call('ZREM', its_endpoints, endpoint) end
    if count_handed > before then break end
  end
  redis.call('ZREM', ring, tenant)  -- after its turn it goes behind all others that are due
  take_place(ring, tenant)
end

local turns = 8 * want  -- in all
repeat
  local before = count_handed
  for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', ring, '-inf', ring_now(), 'LIMIT', 0, math.min(4 * want, turns))) do
    if count_handed < want and not pcall(give_turn, tenant) then redis.call('ZREM', ring, tenant) end
    turns = turns - 1
  end
until count_handed >= want or count_handed == before or turns <= 0
local next_due = redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')[2]
handed[1] = next_due and math.max(0, math.ceil(next_due - ring_now())) or -1
return handed
