-- Write fields of a bulk, or only say that its step goes on.
-- ARGV  bulk, flight, flight_ms, status that it must have ('' = any), fields and values
-- gives 1 = written | 0 = it has another status, or this flight may not write
-- with events, queues, outbox, completion, bulk
local bulk, status = ARGV[1], ARGV[4]
if not flies(bulk, ARGV[2], ARGV[3]) then return 0 end
if status ~= '' and redis.call('HGET', bulk_key(bulk), 'status') ~= status then return 0 end
if #ARGV > 4 then redis.call('HSET', bulk_key(bulk), unpack(ARGV, 5)) end
return 1
