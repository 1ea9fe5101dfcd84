-- Functions of every script: time, job fields, chunked calls, waiting gateways. The client puts this file first.
-- A script gets the shard's root as KEYS[1] and builds the shard's other keys from it. They all carry the root's hash
-- tag, so that they lie in one shard slot (jobs/redis_client/keys.py lists them).
local root = KEYS[1]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

local function job_key(id) return root .. ':job:' .. id end

-- Format a double as the text of an integer.
local function int_text(number) return string.format('%d', number) end

-- Read some fields of a job. All are nil if the key does not hold a hash.
local function job_fields(id, ...)
  local fields = redis.pcall('HMGET', job_key(id), ...)
  return fields.err and {} or fields
end

-- Call one command with many values (for ZADD: score, member, score, member …), some at a time, because Lua's stack
-- holds only a few thousand.
local function call_in_chunks(command, key, values)
  for at = 1, #values, 1000 do redis.call(command, key, unpack(values, at, math.min(at + 999, #values))) end
end

-- Add a gateway to a job's list of gateways (`field`, whose value is `gateways`). The list keeps its newest 64:
-- gateways that were restarted stay in it. A gateway that is dropped from it still re-reads its jobs every few seconds.
local MAX_GATEWAYS = 64
local function add_gateway(job, field, gateways, gateway)
  if not gateways then
    redis.call('HSET', job, field, gateway)
  elseif not string.find(' ' .. gateways .. ' ', ' ' .. gateway .. ' ', 1, true) then
    local _, others = string.gsub(gateways, '[^ ]+', '')
    if others >= MAX_GATEWAYS then gateways = string.match(gateways, ' (.*)$') end
    redis.call('HSET', job, field, gateways .. ' ' .. gateway)
  end
end

-- Notify a gateway when the job ends, if it is still open.
local function add_watcher(id, gateway)
  local job = job_key(id)
  local state, watchers = unpack(redis.call('HMGET', job, 'state', 'watchers'))
  if state ~= 'queued' and state ~= 'running' then return end
  add_gateway(job, 'watchers', watchers, gateway)
end
