-- Set a field of a hash if it still has the value that was read before.
-- ARGV     field, the value that was read ('' = none), the new value ('' = delete the field)
-- returns  1 = the field has the new value | 0 = it has another value
-- Safe to send again: the new value is accepted as already set.
local field, before, after = ARGV[1], ARGV[2], ARGV[3]
local current = redis.call('HGET', root, field) or ''
if current == after then return 1 end
if current ~= before then return 0 end
if after == '' then redis.call('HDEL', root, field) else redis.call('HSET', root, field, after) end
return 1
