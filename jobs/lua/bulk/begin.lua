-- Read a bulk for its step.
-- ARGV  bulk, flight, flight_ms
-- gives {now_ms, outcomes in its log, bulks that are open, its record's fields and values ...}
--       nothing where this flight is not the bulk's last one, or has landed
-- with events, lines, outbox, ends, bulks
local bulk = ARGV[1]
if not flies(bulk, ARGV[2], ARGV[3]) then return nil end
local open = redis.call('ZCARD', root .. ':steps') + redis.call('ZCARD', root .. ':stepping')
return {now_ms, redis.call('LLEN', root .. ':outcomes:' .. bulk), open, unpack(redis.call('HGETALL', bulk_key(bulk)))}
