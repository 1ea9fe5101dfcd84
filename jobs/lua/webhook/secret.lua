-- Read a tenant's secret, made when it is first asked for; or put a new one in its place, which the old one outlives a while.
-- ARGV  a new secret, rotate ('1' | ''), overlap_ms
-- gives the secrets to sign with: the newest, and the one before where it is still good
local held = redis.call('HMGET', root, 'secret', 'previous', 'previous_until')
if not held[1] then
  redis.call('HSET', root, 'secret', ARGV[1])
  return {ARGV[1]}
end
if ARGV[2] == '1' and held[1] ~= ARGV[1] then  -- sent again, it rotates once
  redis.call('HSET', root, 'secret', ARGV[1], 'previous', held[1], 'previous_until', whole(now_ms + ARGV[3]))
  return {ARGV[1], held[1]}
end
if held[2] and tonumber(held[3]) > now_ms then return {held[1], held[2]} end
return {held[1]}
