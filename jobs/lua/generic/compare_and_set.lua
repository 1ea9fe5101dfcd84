-- Put a new value in place of the one that was read: of two who change the same field, one has to look again.
-- ARGV  field, the value that was read ('' = none), the new one ('' = none)
-- gives 1 = it stands; 0 = another value lies there
-- Safe to send again: what stands already is what was wanted.
local field, before, after = ARGV[1], ARGV[2], ARGV[3]
local there = redis.call('HGET', root, field) or ''
if there == after then return 1 end
if there ~= before then return 0 end
if after == '' then redis.call('HDEL', root, field) else redis.call('HSET', root, field, after) end
return 1
