-- Store a worker's file digest per model version; return the served one, kept while any live worker has it.
-- ARGV     worker, ttl_ms (0 = this worker no longer has these files), then per model version: '<name> <version>', the
--          digest of its files
-- returns  per model version the served digest; '' if no worker has any
-- A field is JSON: {served: digest, holders: worker → {digest, ms until which that counts}}.
local worker, ttl_ms = ARGV[1], tonumber(ARGV[2])
local served = {}

local function read_field(name)
  local is_json, value = pcall(cjson.decode, redis.call('HGET', root, name) or '')
  local is_valid = is_json and type(value) == 'table' and type(value.holders) == 'table'
  return is_valid and value or {served = '', holders = {}}
end

local function hold(name, digest)
  local value, holders, is_held, any = read_field(name), {}, false, nil
  for other, held in pairs(value.holders) do
    if type(held) == 'table' and other ~= worker and (tonumber(held[2]) or 0) > now_ms then holders[other] = held end
  end
  if ttl_ms > 0 then holders[worker] = {digest, now_ms + ttl_ms} end
  for _, held in pairs(holders) do
    is_held, any = is_held or held[1] == value.served, held[1]
  end
  if not any then
    redis.call('HDEL', root, name)
    return ''
  end
  if not is_held then value.served = ttl_ms > 0 and digest or any end
  redis.call('HSET', root, name, cjson.encode({served = value.served, holders = holders}))
  return value.served
end

for at = 3, #ARGV, 2 do served[#served + 1] = hold(ARGV[at], ARGV[at + 1]) end
return served
