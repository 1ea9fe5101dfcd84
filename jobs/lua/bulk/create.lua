-- Begin a bulk over a file, which stays as long as the bulk is open.
-- ARGV  bulk, tenant, file, most (bulks of a tenant that are kept), kept_s, key (what makes this request unlike others), digest
--       (of the request), asks ('1' = one that the key made is given instead), key_ttl_s, then its record's fields and values
-- gives 'new', bulk | 'known', bulk that the key made | 'mismatch', bulk that the key made for another request
--       | 'file' there is no such file of this tenant | 'many'
-- Safe to send again: a bulk that is there stays as it is.
-- with events, queues, outbox, completion, bulk
local bulk, tenant, file, kept_s, digest = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[7]
local listed, made_by = root .. ':bulks:' .. tenant, root .. ':idempotency:' .. tenant .. ':' .. ARGV[6]
if redis.call('EXISTS', bulk_key(bulk)) == 1 then return {'new', bulk} end
local made = ARGV[8] == '1' and redis.call('GET', made_by)
if made then
  local known, its_digest = string.match(made, '^(%S+) ?(%S*)$')
  local differs = its_digest ~= '' and digest ~= '' and its_digest ~= digest
  return {differs and 'mismatch' or 'known', known}
end
local facts = redis.call('HMGET', file_key(file), 'tenant', 'deleted', 'bulk')
if facts[1] ~= tenant or facts[2] or facts[3] then return {'file'} end
redis.call('ZREMRANGEBYSCORE', listed, '-inf', whole(now_ms - kept_s * 1000))
if redis.call('ZCARD', listed) >= tonumber(ARGV[4]) then return {'many'} end
redis.call('HSET', bulk_key(bulk), 'tenant', tenant, 'file', file, 'open', 1, 'status', 'validating', 'created', whole(now_ms),
  unpack(ARGV, 10))
redis.call('HINCRBY', root .. ':counts', 'bulks:opened', 1)
redis.call('HINCRBY', file_key(file), 'uses', 1)
redis.call('PERSIST', file_key(file))
redis.call('EXPIRE', root .. ':files:' .. tenant, 2 * kept_s)
redis.call('SET', made_by, bulk .. ' ' .. digest, 'EX', ARGV[9])
redis.call('ZADD', listed, whole(now_ms), bulk)
redis.call('EXPIRE', listed, 2 * kept_s)
step_at(bulk, tenant, now_ms)
redis.call('PUBLISH', 'jitney:outbox', '')
return {'new', bulk}
