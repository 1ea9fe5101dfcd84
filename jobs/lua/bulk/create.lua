-- Create a bulk job over a file; the file stays while the bulk job is open.
-- ARGV     bulk, tenant, file, limit (bulk jobs of a tenant that are kept), keep_s, idempotency key, request digest,
--          replay ('1' = return the bulk job that the key created before), key_ttl_s, then fields and values of its
--          record
-- returns  {'new', bulk} | {'known', bulk that the key created} | {'mismatch', bulk that the key created for another
--          request}
--          | {'file'} = the tenant has no such file | {'many'} = the tenant has too many bulk jobs
-- Safe to send again: an existing bulk job is left as it is.
-- with events, free_slots, queues, outbox, outputs, completion, bulk
local bulk, tenant, file, keep_s, digest = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[7]
local listed, record = root .. ':bulks:' .. tenant, root .. ':idempotency:' .. tenant .. ':' .. ARGV[6]
if redis.call('EXISTS', bulk_key(bulk)) == 1 then return {'new', bulk} end
local earlier = ARGV[8] == '1' and redis.call('GET', record)
if earlier then
  local known, known_digest = string.match(earlier, '^(%S+) ?(%S*)$')
  local differs = known_digest ~= '' and digest ~= '' and known_digest ~= digest
  return {differs and 'mismatch' or 'known', known}
end
local owner, is_deleted, written_by = unpack(redis.call('HMGET', file_key(file), 'tenant', 'deleted', 'bulk'))
if owner ~= tenant or is_deleted or written_by then return {'file'} end
redis.call('ZREMRANGEBYSCORE', listed, '-inf', int_text(now_ms - keep_s * 1000))
if redis.call('ZCARD', listed) >= tonumber(ARGV[4]) then return {'many'} end
redis.call('HSET', bulk_key(bulk), 'tenant', tenant, 'file', file, 'open', 1, 'status', 'validating',
  'created', int_text(now_ms), unpack(ARGV, 10))
redis.call('HINCRBY', root .. ':counts', 'bulks:opened', 1)
redis.call('HINCRBY', file_key(file), 'uses', 1)
redis.call('PERSIST', file_key(file))
redis.call('EXPIRE', root .. ':files:' .. tenant, 2 * keep_s)
redis.call('SET', record, bulk .. ' ' .. digest, 'EX', ARGV[9])
redis.call('ZADD', listed, int_text(now_ms), bulk)
redis.call('EXPIRE', listed, 2 * keep_s)
schedule_step(bulk, tenant, now_ms)
redis.call('PUBLISH', 'jitney:outbox', '')
return {'new', bulk}
