-- Announce one process and what it is set to, and read what the others announced.
-- ARGV  id, ttl_ms (0 = this process ends), its SHARDS, what it announces (JSON)
-- gives {the SHARDS that this queue is kept with, then what each live process announces, this one among them}
-- The first process of a queue writes down its SHARDS; one with another value is not announced.
-- A field `process:<id>` is '<ms until which it counts as alive> <JSON>'; those that are over are removed by whoever comes by.
local id, ttl_ms, own_shards, record = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
redis.call('HSETNX', root, 'shards', own_shards)
local shards = redis.call('HGET', root, 'shards')
if shards ~= own_shards then return {shards} end
if ttl_ms > 0 then
  redis.call('HSET', root, 'process:' .. id, whole(now_ms + ttl_ms) .. ' ' .. record)
else
  redis.call('HDEL', root, 'process:' .. id)
end
local answer, fields = {shards}, redis.call('HGETALL', root)
for at = 1, #fields, 2 do
  if string.sub(fields[at], 1, 8) == 'process:' then
    local until_ms, its_record = string.match(fields[at + 1], '^(%d+) (.*)$')
    if until_ms and tonumber(until_ms) > now_ms then
      answer[#answer + 1] = its_record
    else
      redis.call('HDEL', root, fields[at])
    end
  end
end
return answer
