-- Hide a file from all lists, so that its content can be removed.
-- ARGV     file, tenant ('' = any tenant's: the file has expired), later_ms (delay until a file in use is checked
--          again)
-- returns  {'dropped', bulk job whose lines it has ('' = none), 'out' or 'err'} | {'used'} by an open bulk job |
--          {'unknown'}
-- The file stays in `:expiring_files` until forget is called. An expired file without a record is an upload that was
-- never completed: its content is removed, too.
-- with events, free_slots, queues, outbox, outputs, completion, bulk
local file, tenant = ARGV[1], ARGV[2]
local owner, uses, bulk, kind, deleted =
  unpack(redis.call('HMGET', file_key(file), 'tenant', 'uses', 'bulk', 'kind', 'deleted'))
if not owner and tenant == '' then return {'dropped', '', ''} end
if not owner or (tenant ~= '' and (owner ~= tenant or deleted)) then return {'unknown'} end
local is_written = bulk and redis.call('HEXISTS', bulk_key(bulk), 'open') == 1
if (tonumber(uses) or 0) > 0 or is_written then
  if tenant == '' then redis.call('ZADD', root .. ':expiring_files', int_text(now_ms + ARGV[3]), file) end
  return {'used'}
end
redis.call('HSET', file_key(file), 'deleted', 1)
redis.call('ZREM', root .. ':files:' .. owner, file)
redis.call('ZADD', root .. ':expiring_files', int_text(now_ms), file)
return {'dropped', bulk or '', kind or ''}
