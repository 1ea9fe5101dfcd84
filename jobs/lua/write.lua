-- Write one key, also when the server's memory is full: what keeps the queue running must not stop then.
-- ARGV  a command and its words, less the key
-- gives what the command gives
return redis.call(ARGV[1], root, unpack(ARGV, 2))
