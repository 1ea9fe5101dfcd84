-- Store the numbers of one process, or remove them.
-- ARGV     id, ttl_ms (0 = the process ends), its report (JSON)
-- returns  nothing
-- A field is '<ms until which the process counts as alive> <report>'.
local id, ttl_ms = ARGV[1], tonumber(ARGV[2])
if ttl_ms > 0 then
  redis.call('HSET', root, id, int_text(now_ms + ttl_ms) .. ' ' .. ARGV[3])
else
  redis.call('HDEL', root, id)
end
