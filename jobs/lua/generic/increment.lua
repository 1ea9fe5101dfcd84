-- Increment fields of a hash, even if the server's memory is full.
-- ARGV     field, number, field, number …
-- returns  nothing
for at = 1, #ARGV, 2 do redis.call('HINCRBY', root, ARGV[at], ARGV[at + 1]) end
