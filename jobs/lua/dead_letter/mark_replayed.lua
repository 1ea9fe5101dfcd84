-- Record the new job that a dead letter was submitted as.
-- ARGV     id, id of the new job
-- returns  1 = recorded | 0 = there is no such dead letter
local words, input = unpack(job_fields(ARGV[1], 'state', 'body'))
if state_name(words) ~= 'failed' then return 0 end
if not input and redis.call('EXISTS', input_key(ARGV[1])) == 0 then return 0 end
redis.call('HSET', job_key(ARGV[1]), 'replayed', ARGV[2])
return 1
