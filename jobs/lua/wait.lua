-- Read a job and, while it is not final, let a gateway hear of its end: one step, so that no end is missed between.
-- ARGV  gateway, id, then the names of the fields to read ('state' second)
-- gives their values
local values = redis.call('HMGET', job_key(ARGV[2]), unpack(ARGV, 3))
if values[2] == 'queued' or values[2] == 'running' then watch(ARGV[2], ARGV[1]) end
return values
