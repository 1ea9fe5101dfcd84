-- Read a job and, while it is open, register a gateway for each change of its state and for its end.
-- ARGV     gateway, id, then the names of the fields to read
-- returns  their values, then the worker that claimed the job last ('' = none, or the job was returned to its queue)
local gateway, id = ARGV[1], ARGV[2]
local values = redis.call('HMGET', job_key(id), unpack(ARGV, 3))
local followers, owner = unpack(redis.call('HMGET', job_key(id), 'followers', 'owner'))
add_watcher(id, gateway)
if redis.call('HEXISTS', job_key(id), 'watchers') == 1 then  -- the job is open
  add_gateway(job_key(id), 'followers', followers, gateway)
end
values[#values + 1] = owner or ''
return values
