-- Read a job and, while it is not final, let a gateway hear of each change of its state, as of its end.
-- ARGV  gateway, id, then the names of the fields to read
-- gives their values, and at last whether its last claim was not given back ('' = it was, or there was none)
local gateway, id = ARGV[1], ARGV[2]
local values = redis.call('HMGET', job_key(id), unpack(ARGV, 3))
local followers, owner = unpack(redis.call('HMGET', job_key(id), 'followers', 'owner'))
watch(id, gateway)
if redis.call('HEXISTS', job_key(id), 'watchers') == 1 then  -- it is not final
  add_gateway(job_key(id), 'followers', followers, gateway)
end
values[#values + 1] = owner or ''
return values
