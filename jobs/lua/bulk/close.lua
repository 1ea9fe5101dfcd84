-- A bulk is over: every line has an outcome, and all are stored; or it was refused as a whole.
-- ARGV  bulk, flight, status, kept_s, webhook (origin, URL, headers; '' = none), told (what the webhook tells, in JSON), fields and values
-- gives 1 = written | 0 = this flight may not
-- with events, queues, outbox, completion, bulk
local bulk, status, kept_s, webhook = ARGV[1], ARGV[3], ARGV[4], ARGV[5]
local key = bulk_key(bulk)
if not flies(bulk, ARGV[2], 0) then return 0 end
local tenant, file = unpack(redis.call('HMGET', key, 'tenant', 'file'))
redis.call('HSET', key, 'status', status, unpack(ARGV, 7))
redis.call('HDEL', key, 'open', 'part', 'stalled', 'webhook', 'faults', 'losses', 'not_before')
redis.call('HINCRBY', root .. ':counts', 'bulks:ended:' .. status, 1)
redis.call('HINCRBY', file_key(file), 'uses', -1)
redis.call('EXPIRE', file_key(file), kept_s)
redis.call('DEL', root .. ':done_lines:' .. bulk, root .. ':bulk_outcomes:' .. bulk)
redis.call('ZREM', root .. ':bulk_running', bulk)
take_place(root .. ':bulk_due', tenant)  -- its next batch may have waited for this one's thread
for _, kept in ipairs({key, root .. ':bulk_parts:' .. bulk .. ':out', root .. ':bulk_parts:' .. bulk .. ':err'}) do
  redis.call('EXPIRE', kept, kept_s)
end
local origin, url, _, headers = read_webhook(webhook)
if url then
  write_delivery(bulk .. 'ffffffff-1', 'batch_' .. bulk, tenant, status, origin, url, headers, ARGV[6], 0)
  redis.call('PUBLISH', 'jitney:outbox', '')
end
return 1
