-- Read a job and, while it is open, register a gateway for its end. One step, so that no end is missed in between.
-- ARGV     gateway, id, then the names of the fields to read
-- returns  their values
local values = redis.call('HMGET', job_key(ARGV[2]), unpack(ARGV, 3))
add_watcher(ARGV[2], ARGV[1])
return values
