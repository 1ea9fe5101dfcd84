-- Note a file whose content is stored.
-- ARGV  file, tenant, most (files of a tenant), expires_ms, kept_s (of what lists it), then its record's fields and values
-- gives 'new' | 'many'
-- Safe to send again: a file that is there stays as it is.
-- with events, queues, outbox, completion, bulk
local file, tenant = ARGV[1], ARGV[2]
if redis.call('EXISTS', file_key(file)) == 1 then return 'new' end
if redis.call('ZCARD', root .. ':files:' .. tenant) >= tonumber(ARGV[3]) then return 'many' end
redis.call('HSET', file_key(file), 'tenant', tenant, 'created', whole(now_ms), 'expires', ARGV[4], unpack(ARGV, 6))
redis.call('EXPIRE', file_key(file), ARGV[5])
list_file(file, tenant, ARGV[4], ARGV[5])
return 'new'
