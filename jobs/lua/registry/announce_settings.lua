-- Store one process's settings and return those of all live processes; a process with a different SHARDS is rejected.
-- ARGV     id, ttl_ms (0 = this process ends), its SHARDS, its settings (JSON)
-- returns  {the queue's SHARDS, then the settings of each live process, with this one}; only the first if it differs
-- The first process of a queue sets its SHARDS. A field `process:<id>` is '<ms until which the process counts as alive>
-- <JSON>'; any process removes the expired ones.
local MAX_RETURNED = 4000  -- as many as fit on Lua's stack
local id, ttl_ms, own_shards, settings = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local own_field, shards, others, expired = 'process:' .. id, nil, {}, {}
local fields = redis.call('HGETALL', root)
for at = 1, #fields, 2 do
  local name, value = fields[at], fields[at + 1]
  local until_ms, other_settings = string.match(value, '^(%d+) (.*)$')
  if name == 'shards' then
    shards = value
  elseif string.sub(name, 1, 8) == 'process:' and name ~= own_field then
    local is_alive = until_ms and tonumber(until_ms) > now_ms
    table.insert(is_alive and others or expired, is_alive and other_settings or name)
  end
end
if shards and shards ~= own_shards then return {shards} end
if not shards then redis.call('HSET', root, 'shards', own_shards) end
if ttl_ms > 0 then
  redis.call('HSET', root, own_field, int_text(now_ms + ttl_ms) .. ' ' .. settings)
else
  expired[#expired + 1] = own_field
end
for _, name in ipairs(expired) do redis.call('HDEL', root, name) end
return {own_shards, ttl_ms > 0 and settings or '', unpack(others, 1, math.min(#others, MAX_RETURNED))}
