-- Read a job and, while it is not final, let a gateway hear of its end: one step, so that no end is missed between.
-- ARGV  gateway, id, then the names of the fields to read
-- gives their values
local values = redis.call('HMGET', job_key(ARGV[2]), unpack(ARGV, 3))
watch(ARGV[2], ARGV[1])
return values
