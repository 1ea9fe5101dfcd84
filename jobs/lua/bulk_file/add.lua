-- Record a file whose content is stored.
-- ARGV     file, tenant, limit (files of a tenant), expires_ms, keep_s (lifetime of the record and the list), then
--          fields and values of the record
-- returns  'new' | 'many' = the tenant has too many files
-- Safe to send again: an existing file is left as it is.
-- with events, free_slots, queues, outbox, outputs, completion, bulk
local file, tenant = ARGV[1], ARGV[2]
if redis.call('EXISTS', file_key(file)) == 1 then return 'new' end
if redis.call('ZCARD', root .. ':files:' .. tenant) >= tonumber(ARGV[3]) then return 'many' end
redis.call('HSET', file_key(file), 'tenant', tenant, 'created', int_text(now_ms), 'expires', ARGV[4], unpack(ARGV, 6))
redis.call('EXPIRE', file_key(file), ARGV[5])
list_file(file, tenant, ARGV[4], ARGV[5])
return 'new'
