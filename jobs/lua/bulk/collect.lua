-- Record that a bulk job's oldest outcomes are stored in a part of its files, and remove them from `:bulk_outcomes`.
-- ARGV     bulk, token, lease_ms, collected (outcomes stored before), count and bytes of these outcomes, part (its
--          number and a random suffix), bytes of it in the output file and in the error file (0 = none), lines in each,
--          expires_ms and keep_s of these files
-- returns  1 = recorded | 0 = the lease is lost, or these outcomes were stored before
-- with events, free_slots, queues, outbox, outputs, completion, bulk
local bulk, token, lease_ms, before, count, bytes, part = unpack(ARGV, 1, 7)
local key = bulk_key(bulk)
if not renew_lease(bulk, token, lease_ms) then return 0 end
local collected, last_part, tenant = unpack(redis.call('HMGET', key, 'collected', 'part', 'tenant'))
if last_part == part then return 1 end
if collected ~= before then return 0 end
redis.call('LTRIM', root .. ':bulk_outcomes:' .. bulk, count, -1)
redis.call('HSET', key, 'collected', int_text(before + count), 'part', part)
redis.call('HINCRBY', key, 'bytes', 0 - bytes)
clear_faults(bulk)
for number, kind in ipairs({'out', 'err'}) do
  local size, file = tonumber(ARGV[7 + number]), redis.call('HGET', key, kind .. '_file')
  if size > 0 then
    redis.call('RPUSH', root .. ':bulk_parts:' .. bulk .. ':' .. kind, size .. ' ' .. part)
    if redis.call('HSETNX', file_key(file), 'tenant', tenant) == 1 then
      local name = 'batch_' .. bulk .. (kind == 'out' and '_output' or '_error') .. '.jsonl'
      redis.call('HSET', file_key(file), 'name', name, 'purpose', 'batch_output', 'bulk', bulk,
        'kind', kind, 'created', int_text(now_ms), 'expires', ARGV[12])
      redis.call('EXPIRE', file_key(file), ARGV[13])
      list_file(file, tenant, ARGV[12], ARGV[13])
    end
    redis.call('HINCRBY', file_key(file), 'bytes', size)
    redis.call('HINCRBY', file_key(file), 'lines', ARGV[9 + number])
    redis.call('HSET', key, kind .. '_exists', 1)
    local outcome = kind == 'out' and 'succeeded' or 'failed'
    redis.call('HINCRBY', root .. ':counts', 'bulks:lines:' .. outcome, ARGV[9 + number])
  end
end
return 1
