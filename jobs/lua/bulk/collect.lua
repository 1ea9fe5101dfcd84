-- Outcomes of a bulk are stored, in parts of its files: they leave the log.
-- ARGV  bulk, flight, flight_ms, before (outcomes stored so far), count, bytes (of these outcomes), part (its number and a random
--       word, as no other has), bytes of it in the output file, and in the error file (0 = there is none), lines of each,
--       expires_ms and kept_s of these files
-- gives 1 = written | 0 = this flight may not write, or another was faster
-- with events, queues, outbox, completion, bulk
local bulk, flight, flight_ms, before, count, bytes, part = unpack(ARGV, 1, 7)
local key = bulk_key(bulk)
if not flies(bulk, flight, flight_ms) then return 0 end
local facts = redis.call('HMGET', key, 'collected', 'part', 'tenant')
if facts[2] == part then return 1 end
if facts[1] ~= before then return 0 end
redis.call('LTRIM', root .. ':bulk_outcomes:' .. bulk, count, -1)
redis.call('HSET', key, 'collected', whole(before + count), 'part', part)
redis.call('HINCRBY', key, 'bytes', 0 - bytes)
went_well(bulk)
for nth, kind in ipairs({'out', 'err'}) do
  local size, file = tonumber(ARGV[7 + nth]), redis.call('HGET', key, kind .. '_file')
  if size > 0 then
    redis.call('RPUSH', root .. ':bulk_parts:' .. bulk .. ':' .. kind, size .. ' ' .. part)
    if redis.call('HSETNX', file_key(file), 'tenant', facts[3]) == 1 then
      redis.call('HSET', file_key(file), 'name', 'batch_' .. bulk .. (kind == 'out' and '_output' or '_error') .. '.jsonl',
        'purpose', 'batch_output', 'bulk', bulk, 'kind', kind, 'created', whole(now_ms), 'expires', ARGV[12])
      redis.call('EXPIRE', file_key(file), ARGV[13])
      list_file(file, facts[3], ARGV[12], ARGV[13])
    end
    redis.call('HINCRBY', file_key(file), 'bytes', size)
    redis.call('HINCRBY', file_key(file), 'lines', ARGV[9 + nth])
    redis.call('HSET', key, kind .. '_exists', 1)
    redis.call('HINCRBY', root .. ':counts', 'bulks:lines:' .. (kind == 'out' and 'succeeded' or 'failed'), ARGV[9 + nth])
  end
end
return 1
