-- Store a worker's file digest per model version; return the served one, kept while any live worker has it.
-- ARGV  worker, ttl_ms (0 = this worker has them no more), then per model version: '<name> <version>', the digest of its files
-- gives per model version the digest that is served; '' where no worker has any
-- A field is JSON: the digest that is served, and by worker the digest that it has and the ms until which that counts.
local worker, ttl_ms = ARGV[1], tonumber(ARGV[2])
local answer = {}

local function state_of(name)
  local is_read, state = pcall(cjson.decode, redis.call('HGET', root, name) or '')
  local is_sound = is_read and type(state) == 'table' and type(state.holders) == 'table'
  return is_sound and state or {served = '', holders = {}}
end

local function serve(name, digest)
  local state, holders, is_held, any = state_of(name), {}, false, nil
  for whose, held in pairs(state.holders) do
    if type(held) == 'table' and whose ~= worker and (tonumber(held[2]) or 0) > now_ms then holders[whose] = held end
  end
  if ttl_ms > 0 then holders[worker] = {digest, now_ms + ttl_ms} end
  for _, held in pairs(holders) do
    is_held, any = is_held or held[1] == state.served, held[1]
  end
  if not any then
    redis.call('HDEL', root, name)
    return ''
  end
  if not is_held then state.served = ttl_ms > 0 and digest or any end
  redis.call('HSET', root, name, cjson.encode({served = state.served, holders = holders}))
  return state.served
end

for at = 3, #ARGV, 2 do answer[#answer + 1] = serve(ARGV[at], ARGV[at + 1]) end
return answer
