-- Take a file out of all lists, so that its content can be removed; until that is said (forget), it is among those that expire.
-- A file without a record that has expired is an upload that came to nothing: its content is removed too.
-- ARGV  file, tenant ('' = whosever it is, for it has expired), later_ms (when a file in use is looked at again)
-- gives 'dropped', bulk whose lines it has ('' = none), 'out' or 'err' | 'used' by a bulk that is not over | 'unknown'
-- with events, queues, outbox, completion, bulk
local file, tenant = ARGV[1], ARGV[2]
local facts = redis.call('HMGET', file_key(file), 'tenant', 'uses', 'bulk', 'kind', 'deleted')
if not facts[1] and tenant == '' then return {'dropped', '', ''} end
if not facts[1] or (tenant ~= '' and (facts[1] ~= tenant or facts[5])) then return {'unknown'} end
local writes = facts[3] and redis.call('HEXISTS', root .. ':bulk:' .. facts[3], 'open') == 1
if (tonumber(facts[2]) or 0) > 0 or writes then
  if tenant == '' then redis.call('ZADD', root .. ':expiring_files', whole(now_ms + ARGV[3]), file) end
  return {'used'}
end
redis.call('HSET', file_key(file), 'deleted', 1)
redis.call('ZREM', root .. ':files:' .. facts[1], file)
redis.call('ZADD', root .. ':expiring_files', whole(now_ms), file)
return {'dropped', facts[3] or '', facts[4] or ''}
