-- Add to the numbers of a hash, also when the server's memory is full.
-- ARGV  field, number, field, number ...
-- gives nothing
for at = 1, #ARGV, 2 do redis.call('HINCRBY', root, ARGV[at], ARGV[at + 1]) end
