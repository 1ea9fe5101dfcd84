-- Delete the record of a file whose content has been removed.
-- ARGV     file
-- returns  the number of deleted keys
-- with events, free_slots, queues, outbox, outputs, completion, bulk
redis.call('ZREM', root .. ':expiring_files', ARGV[1])
return redis.call('DEL', file_key(ARGV[1]))
