-- Hand out bulks whose next step is due; a step of which nothing is heard any more comes back. Such losses in a row are counted:
-- the process may have died of it, or of another bulk's step beside it. From the third on the bulk rests before the next.
-- ARGV  want, flight_ms (how long a step may say nothing)
-- gives {ms until one is due (-1: none is), bulk, flight, bulk, flight ...}
-- with events, lines, outbox, ends, bulks
local steps, stepping, handed = root .. ':steps', root .. ':stepping', {-1}
for _, bulk in ipairs(redis.call('ZRANGEBYSCORE', stepping, '-inf', whole(now_ms))) do
  redis.call('ZREM', stepping, bulk)
  redis.call('ZADD', steps, whole(now_ms), bulk)
  if redis.call('HEXISTS', bulk_key(bulk), 'open') == 1 then
    local losses = redis.call('HINCRBY', bulk_key(bulk), 'losses', 1)
    local rest_ms = losses > 2 and math.min(60000, 1000 * 2 ^ (losses - 2)) or 0
    redis.call('HSET', bulk_key(bulk), 'not_before', whole(now_ms + rest_ms))
  end
end
for _, bulk in ipairs(redis.call('ZRANGEBYSCORE', steps, '-inf', whole(now_ms), 'LIMIT', 0, ARGV[1])) do
  redis.call('ZREM', steps, bulk)
  local open, not_before = unpack(redis.call('HMGET', bulk_key(bulk), 'open', 'not_before'))
  if open and not_before and tonumber(not_before) > now_ms then  -- it was woken early, and rests after a fault
    redis.call('ZADD', steps, not_before, bulk)
  elseif open then
    handed[#handed + 1], handed[#handed + 2] = bulk, redis.call('HINCRBY', bulk_key(bulk), 'flight', 1)
    redis.call('ZADD', stepping, whole(now_ms + ARGV[2]), bulk)
  end
end
for _, key in ipairs({steps, stepping}) do
  local at = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  local wait_ms = at and math.max(0, at - now_ms)
  if wait_ms and (handed[1] < 0 or wait_ms < handed[1]) then handed[1] = wait_ms end
end
return handed
