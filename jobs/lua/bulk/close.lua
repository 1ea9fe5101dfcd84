-- End a bulk job with its final status: release its input file and queue its webhook.
-- ARGV     bulk, token, status, keep_s, webhook ('<origin> <URL>' and headers; '' = none), payload (of the webhook, in
--          JSON), then fields and values of the record
-- returns  1 = closed | 0 = the lease is lost
-- with events, free_slots, queues, outbox, outputs, completion, bulk
local bulk, status, keep_s, webhook = ARGV[1], ARGV[3], ARGV[4], ARGV[5]
local key = bulk_key(bulk)
if not renew_lease(bulk, ARGV[2], 0) then return 0 end
local tenant, file = unpack(redis.call('HMGET', key, 'tenant', 'file'))
redis.call('HSET', key, 'status', status, unpack(ARGV, 7))
redis.call('HDEL', key, 'open', 'part', 'stalled', 'webhook', 'faults', 'losses', 'not_before')
redis.call('HINCRBY', root .. ':counts', 'bulks:ended:' .. status, 1)
redis.call('HINCRBY', file_key(file), 'uses', -1)
redis.call('EXPIRE', file_key(file), keep_s)
redis.call('DEL', root .. ':done_lines:' .. bulk, root .. ':bulk_outcomes:' .. bulk)
redis.call('ZREM', root .. ':bulk_running', bulk)
update_due(root .. ':bulk_due', tenant)  -- another bulk job of the tenant may have waited for this one's thread
for _, kept in ipairs({key, root .. ':bulk_parts:' .. bulk .. ':out', root .. ':bulk_parts:' .. bulk .. ':err'}) do
  redis.call('EXPIRE', kept, keep_s)
end
local origin, url, _, headers = parse_webhook(webhook)
if url then
  create_delivery(bulk .. 'ffffffff-1', 'batch_' .. bulk, tenant, status, origin, url, headers, ARGV[6], 0)
  redis.call('PUBLISH', 'jitney:outbox', '')
end
return 1
