-- Run one write command on a key and set its lifetime, even if the server's memory is full.
-- ARGV     ttl_s ('' = leave it unchanged), the command and its arguments without the key
-- returns  the command's reply
-- Used for keys that keep the queue running.
local reply = redis.call(ARGV[2], root, unpack(ARGV, 3))
if ARGV[1] ~= '' then redis.call('EXPIRE', root, ARGV[1]) end
return reply
