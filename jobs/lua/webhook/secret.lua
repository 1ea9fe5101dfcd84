-- Read a tenant's signing secrets: create the first one, or rotate.
-- ARGV     a new secret, rotate ('1' | ''), overlap_ms (how long the previous secret stays valid)
-- returns  the secrets to sign with: the current one, and the previous one while it is valid
-- Safe to send again: the same new secret rotates once.
local current, previous, previous_until = unpack(redis.call('HMGET', root, 'secret', 'previous', 'previous_until'))
if not current then
  redis.call('HSET', root, 'secret', ARGV[1])
  return {ARGV[1]}
end
if ARGV[2] == '1' and current ~= ARGV[1] then
  redis.call('HSET', root, 'secret', ARGV[1], 'previous', current, 'previous_until', int_text(now_ms + ARGV[3]))
  return {ARGV[1], current}
end
if previous and tonumber(previous_until) > now_ms then return {current, previous} end
return {current}
