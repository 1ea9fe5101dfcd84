-- A file's content is removed: forget that there was one.
-- ARGV  file
-- gives how many keys went
-- with events, queues, outbox, completion, bulk
redis.call('ZREM', root .. ':expiring_files', ARGV[1])
return redis.call('DEL', file_key(ARGV[1]))
