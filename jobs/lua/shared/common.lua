-- What every script has; the loader puts it in front of each. A script gets the shard's root as KEYS[1] and builds the
-- shard's other keys from it: they all carry the root's hash tag, so they lie in one slot (jobs/keys.py lists them).
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

-- Let a gateway hear of the job's end, if that is still to come.
local function watch(id, gateway)
  local job = job_key(id)
  local state, watchers = unpack(redis.call('HMGET', job, 'state', 'watchers'))
  if state ~= 'queued' and state ~= 'running' then return end
  if not watchers then
    redis.call('HSET', job, 'watchers', gateway)
  elseif not string.find(' ' .. watchers .. ' ', ' ' .. gateway .. ' ', 1, true) then
    redis.call('HSET', job, 'watchers', watchers .. ' ' .. gateway)
  end
end
