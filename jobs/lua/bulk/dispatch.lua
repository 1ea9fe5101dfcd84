-- Hand out bulks whose next step is due; a step of which nothing is heard any more comes back. Such losses in a row are counted:
-- the process may have died of it, or of another bulk's step beside it. From the third on the bulk rests before the next.
-- Tenants take turns.
-- ARGV  want, slots (threads of the caller; once half of them are taken, no tenant gets a second), flight_ms (how long a step may
--       say nothing)
-- gives {ms until one is due (-1: none is), bulk, flight, bulk, flight ...}
-- with events, queues, outbox, completion, bulk
local ring, stepping, handed, count_handed = root .. ':bulk_due', root .. ':bulk_running', {-1}, 0
local want, slots, flight_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local RETRY_MS = 100  -- until a tenant that may not have a second step right now is looked at again; a step's end comes first
local RESTING = 16  -- bulks of a tenant that are looked at in one turn, past those that rest
local under_way, lost = steps_under_way()
for _, one in ipairs(lost) do
  redis.call('ZREM', stepping, one[1])
  step_at(one[1], one[2], now_ms)
  if redis.call('HEXISTS', bulk_key(one[1]), 'open') == 1 then
    local losses = redis.call('HINCRBY', bulk_key(one[1]), 'losses', 1)
    local rest_ms = losses > 2 and math.min(60000, 1000 * 2 ^ (losses - 2)) or 0
    redis.call('HSET', bulk_key(one[1]), 'not_before', whole(now_ms + rest_ms))
  end
end

local function give_turn(tenant)
  if 2 * (want - count_handed) <= slots and under_way[tenant] then
    redis.call('ZADD', ring, whole(now_ms + RETRY_MS), tenant)
    return
  end
  for _, bulk in ipairs(redis.call('ZRANGEBYSCORE', ring .. ':' .. tenant, '-inf', whole(now_ms), 'LIMIT', 0, RESTING)) do
    local open, not_before = unpack(redis.call('HMGET', bulk_key(bulk), 'open', 'not_before'))
    local rests = open and not_before and tonumber(not_before) > now_ms  -- it was woken early, after a fault
    if rests then
      redis.call('ZADD', ring .. ':' .. tenant, not_before, bulk)
    else
      redis.call('ZREM', ring .. ':' .. tenant, bulk)
    end
    if open and not rests then
      handed[#handed + 1], handed[#handed + 2] = bulk, redis.call('HINCRBY', bulk_key(bulk), 'lease_token', 1)
      redis.call('ZADD', stepping, whole(now_ms + flight_ms), bulk)
      count_handed, under_way[tenant] = count_handed + 1, (under_way[tenant] or 0) + 1
      break
    end
  end
  redis.call('ZREM', ring, tenant)  -- after its turn it goes behind all others that are due
  take_place(ring, tenant)
end

repeat
  local before = count_handed
  for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', ring, '-inf', ring_now(), 'LIMIT', 0, 4 * want)) do
    if count_handed < want then give_turn(tenant) end
  end
until count_handed >= want or count_handed == before
for _, key in ipairs({ring, stepping}) do
  local at = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  local wait_ms = at and math.max(0, math.ceil(at - ring_now()))
  if wait_ms and (handed[1] < 0 or wait_ms < handed[1]) then handed[1] = wait_ms end
end
return handed
