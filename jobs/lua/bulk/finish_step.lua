-- A bulk's step is done; the next is due after a while, or at once where outcomes came meanwhile.
-- ARGV  bulk, flight, after_ms, stalled (why nothing can go on; '' = it does), fault ('1' = the step failed unexpectedly): the
--       number of faults in a row is kept, and the next step is not made before after_ms
-- gives 1 = written | 0 = this flight may not
-- with events, queues, outbox, completion, bulk
local bulk = ARGV[1]
if not flies(bulk, ARGV[2], 0) then return 0 end
local facts = redis.call('HMGET', bulk_key(bulk), 'expanded', 'completed', 'failed_lines', 'collected', 'tenant')
local expanded, completed, failed, collected, tenant = unpack(facts)
local ended = (tonumber(completed) or 0) + (tonumber(failed) or 0)
local waits = ended > tonumber(collected or 0) and (ended - collected >= WAKE or ended == tonumber(expanded))
if ARGV[4] ~= '' then redis.call('HSET', bulk_key(bulk), 'stalled', ARGV[4]) else redis.call('HDEL', bulk_key(bulk), 'stalled') end
if ARGV[5] == '1' then
  redis.call('HINCRBY', bulk_key(bulk), 'faults', 1)
  redis.call('HSET', bulk_key(bulk), 'not_before', whole(now_ms + ARGV[3]))
else
  went_well(bulk)
end
redis.call('ZREM', root .. ':bulk_running', bulk)
step_at(bulk, tenant, now_ms + (waits and ARGV[4] == '' and 0 or ARGV[3]))
return 1
