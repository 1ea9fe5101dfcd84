-- What every script has; the loader puts it in front of each. A script gets the shard's root as KEYS[1] and builds the
-- shard's other keys from it: they all carry the root's hash tag, so they lie in one slot (jobs/redis_client/keys.py lists them).
local root = KEYS[1]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

local function job_key(id) return root .. ':job:' .. id end
local function whole(number) return string.format('%d', number) end  -- a double as an integer's text

-- Some fields of a job; all of them missing where what lies there is no job.
local function facts_of(id, ...)
  local facts = redis.pcall('HMGET', job_key(id), ...)
  return facts.err and {} or facts
end

-- One command for many words (for ZADD: score, member, score, member ...); Lua's stack takes some thousands at a time.
local function for_many(command, key, words)
  for at = 1, #words, 1000 do redis.call(command, key, unpack(words, at, math.min(at + 999, #words))) end
end

-- Add a gateway to a job's list of gateways (`field`). The list keeps its newest 64: gateways that were restarted stay in it,
-- and a gateway that is dropped from it re-reads the jobs that it waits for every few seconds anyway.
local MOST_GATEWAYS = 64
local function add_gateway(job, field, gateways, gateway)
  if not gateways then
    redis.call('HSET', job, field, gateway)
  elseif not string.find(' ' .. gateways .. ' ', ' ' .. gateway .. ' ', 1, true) then
    local _, others = string.gsub(gateways, '[^ ]+', '')
    if others >= MOST_GATEWAYS then gateways = string.match(gateways, ' (.*)$') end
    redis.call('HSET', job, field, gateways .. ' ' .. gateway)
  end
end

-- Let a gateway hear of the job's end, if that is still to come.
local function watch(id, gateway)
  local job = job_key(id)
  local state, watchers = unpack(redis.call('HMGET', job, 'state', 'watchers'))
  if state ~= 'queued' and state ~= 'running' then return end
  add_gateway(job, 'watchers', watchers, gateway)
end
