-- End a bulk job's step and schedule the next one.
-- ARGV     bulk, token, after_ms (until the next step), stalled (reason why the bulk job cannot go on; '' = it can),
--          fault ('1' = the step failed unexpectedly: faults in a row are counted, and no step runs before after_ms)
-- returns  1 = recorded | 0 = the lease is lost
-- The next step is due at once if enough outcomes have arrived.
-- with events, free_slots, queues, outbox, outputs, completion, bulk
local bulk = ARGV[1]
local key = bulk_key(bulk)
if not renew_lease(bulk, ARGV[2], 0) then return 0 end
local fields = redis.call('HMGET', key, 'expanded', 'completed', 'failed_lines', 'collected', 'tenant')
local expanded, completed, failed, collected, tenant = unpack(fields)
local ended = (tonumber(completed) or 0) + (tonumber(failed) or 0)
local has_outcomes = ended > tonumber(collected or 0)
  and (ended - collected >= STEP_OUTCOMES or ended == tonumber(expanded))
if ARGV[4] ~= '' then redis.call('HSET', key, 'stalled', ARGV[4]) else redis.call('HDEL', key, 'stalled') end
if ARGV[5] == '1' then
  redis.call('HINCRBY', key, 'faults', 1)
  redis.call('HSET', key, 'not_before', int_text(now_ms + ARGV[3]))
else
  clear_faults(bulk)
end
redis.call('ZREM', root .. ':bulk_running', bulk)
schedule_step(bulk, tenant, now_ms + (has_outcomes and ARGV[4] == '' and 0 or ARGV[3]))
return 1
