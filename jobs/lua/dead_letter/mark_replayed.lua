-- Record the new job that a dead letter was submitted as.
-- ARGV     id, id of the new job
-- returns  1 = recorded | 0 = there is no such dead letter
if redis.call('HEXISTS', job_key(ARGV[1]), 'input') == 0 then return 0 end
redis.call('HSET', job_key(ARGV[1]), 'replayed', ARGV[2])
return 1
