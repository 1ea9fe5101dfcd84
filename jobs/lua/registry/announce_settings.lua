-- Store one process's settings and return those of all live processes; a process with a different SHARDS is rejected.
-- ARGV  id, ttl_ms (0 = this process ends), its SHARDS, what it announces (JSON)
-- gives {the SHARDS that this queue is kept with, then what each live process announces, this one among them}
-- The first process of a queue writes down its SHARDS; one with another value is not announced.
-- A field `process:<id>` is '<ms until which it counts as alive> <JSON>'; any process removes those that are over.
local MOST_TOLD = 4000  -- as many as fit on Lua's stack
local id, ttl_ms, own_shards, record = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local own, shards, others, gone = 'process:' .. id, nil, {}, {}
local fields = redis.call('HGETALL', root)
for at = 1, #fields, 2 do
  local name, value = fields[at], fields[at + 1]
  local until_ms, its_record = string.match(value, '^(%d+) (.*)$')
  if name == 'shards' then
    shards = value
  elseif string.sub(name, 1, 8) == 'process:' and name ~= own then
    local lives = until_ms and tonumber(until_ms) > now_ms
    table.insert(lives and others or gone, lives and its_record or name)
  end
end
if shards and shards ~= own_shards then return {shards} end
if not shards then redis.call('HSET', root, 'shards', own_shards) end
if ttl_ms > 0 then
  redis.call('HSET', root, own, whole(now_ms + ttl_ms) .. ' ' .. record)
else
  gone[#gone + 1] = own
end
for _, name in ipairs(gone) do redis.call('HDEL', root, name) end
return {own_shards, ttl_ms > 0 and record or '', unpack(others, 1, math.min(#others, MOST_TOLD))}
