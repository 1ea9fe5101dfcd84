-- Note on a dead letter which job it was sent again as.
-- ARGV  id, id of the new job
-- gives 1 = noted, 0 = there is no such letter any more
if redis.call('HEXISTS', job_key(ARGV[1]), 'input') == 0 then return 0 end
redis.call('HSET', job_key(ARGV[1]), 'replayed', ARGV[2])
return 1
