-- Renew the lease of a bulk job's step, and write fields of its record.
-- ARGV     bulk, token, lease_ms, status that it must have ('' = any), then fields and values, if any
-- returns  1 = written | 0 = it has another status, or the lease is lost
-- with events, free_slots, queues, outbox, outputs, completion, bulk
local bulk, status = ARGV[1], ARGV[4]
if not renew_lease(bulk, ARGV[2], ARGV[3]) then return 0 end
if status ~= '' and redis.call('HGET', bulk_key(bulk), 'status') ~= status then return 0 end
if #ARGV > 4 then redis.call('HSET', bulk_key(bulk), unpack(ARGV, 5)) end
return 1
