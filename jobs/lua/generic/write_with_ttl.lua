-- Write one key, also when the server's memory is full: what keeps the queue running must not stop then.
-- ARGV  ttl_s ('' = it stays as it is), a command and its words, less the key
-- gives what the command gives
local answer = redis.call(ARGV[2], root, unpack(ARGV, 3))
if ARGV[1] ~= '' then redis.call('EXPIRE', root, ARGV[1]) end
return answer
