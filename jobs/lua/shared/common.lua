-- Functions of every script: layout of a job's record, keys, time, waiting gateways. The client puts this file first.
-- A script gets the shard's root as KEYS[1] and builds the shard's other keys from it. They all carry the root's hash
-- tag, so that they lie in one shard slot (jobs/redis_client/keys.py lists them).
local root = KEYS[1]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

local OWN_KEY_BYTES = 32768  -- inputs of this size and above have a key of their own (jobs/store/inputs.py)
local function job_key(id) return root .. ':job:' .. id end
local function input_key(id) return root .. ':input:' .. id end

-- Format a double as the text of an integer.
local function int_text(number) return string.format('%d', number) end

-- Read some fields of a job. All are nil if the key does not hold a hash.
local function job_fields(id, ...)
  local fields = redis.pcall('HMGET', job_key(id), ...)
  return fields.err and {} or fields
end

-- A job's record. `head`: words that never change. `state`: words that do. `body`: the input, if it has no key of its
-- own; once the job has succeeded, its output of up to 16 kB. `facts`: a MessagePack map of what most jobs lack,
-- `parameters`, `metadata`, `rows` (the number that its input has, which limits count), `bulk` (custom_id of a bulk job's
-- line), `quota` ('jobs' = it counts among its tenant's open jobs, 'bytes' = so do its outputs), `logged` (a client listens
-- to all events of its tenant), `request_id` and `traceparent` (jobs/contract/request_context.py).
-- head: v, bytes of the input, deadline in ms, time of its acceptance in µs, kind (with '+base64' behind it, the
-- parameters are {"encoding":"base64"}), and its route: model, version, lane, tenant.
-- state: the state's name, attempts, worker that claimed it last ('-' = none, or it was returned to its queue), µs of
-- the last claim ('-' = none). Then, while it is open, '+' if it counts among its tenant's running jobs, else '-', and
-- its watchers: gateways to notify of its end and, with a '+' behind them, of each change of its state. Once it is
-- final: µs of its end, batch size, stages and error code ('-' = none).
-- The pattern is lenient: a job whose times or kind cannot be read must still leave the counters that it is part of.
local HEAD = '^(%S*) (%d+) (%S*) (%S*) (%S*) (.+)$'
local known_routes = {}

-- Return a route as {model, version, lane, tenant, model_version}, made once for all jobs of a script; nil if the words
-- are no route.
local function parse_route(words)
  local route = known_routes[words]
  if route == nil then
    local model, version, lane, tenant = string.match(words, '^(%S+) (%d+) (%l+) (%S+)$')
    route = model and {model = model, version = version, lane = lane, tenant = tenant,
      model_version = model .. ':' .. version, ends = {}} or false
    known_routes[words] = route
  end
  return route or nil
end

-- Return the route of a head and its bytes as text; nil if it cannot be read.
local function parse_route_and_size(head)
  local size, words = string.match(head or '', '^%S* (%d+) %S* %S* %S* (.+)$')
  return words and (known_routes[words] or parse_route(words)), size
end

-- Return the route of a head, then its bytes, deadline and time of acceptance as text; nil if it cannot be read.
local function parse_head(head)
  local _, size, deadline, created, _, words = string.match(head or '', HEAD)
  local route = words and parse_route(words)
  if route then return route, size, deadline, created end
end

-- Return the name of a state, attempts, worker, µs of the claim and, of an open job, mark and watchers ('' = none).
local function parse_state(words) return string.match(words or '', '^(%l+) (%d+) (%S+) (%S+) (%S+) ?(.*)$') end

-- Return the name of a state.
local function state_name(words) return string.match(words or '', '^%l+') end

-- Return the words of an open job that no worker runs.
local function queued_words(attempts, started, watchers)
  local words = 'queued ' .. attempts .. ' - ' .. started .. ' -'
  return watchers == '' and words or words .. ' ' .. watchers
end

-- Call one command with many values (for ZADD: score, member, score, member …), some at a time, because Lua's stack
-- holds only a few thousand.
local function call_in_chunks(command, key, values)
  for at = 1, #values, 1000 do redis.call(command, key, unpack(values, at, math.min(at + 999, #values))) end
end

-- Notify a gateway when the job ends, if it is still open; `follows`: also of each change of its state. The newest 64
-- gateways are kept: those that were restarted stay among them. A gateway that is dropped still re-reads its jobs every
-- few seconds.
local MAX_GATEWAYS = 64
local function add_watcher(id, gateway, follows)
  local state, attempts, owner, started, mark, watchers = parse_state(job_fields(id, 'state')[1])
  if state ~= 'queued' and state ~= 'running' then return end
  local words, known = {}, false
  for name, follower in string.gmatch(watchers, '([^ +]+)(%+?)') do
    if name == gateway then
      known, follows = follower ~= '' or not follows, follows or follower ~= ''
    else
      words[#words + 1] = name .. follower
    end
  end
  if known then return end
  if #words >= MAX_GATEWAYS then table.remove(words, 1) end
  words[#words + 1] = gateway .. (follows and '+' or '')
  redis.call('HSET', job_key(id), 'state', table.concat({state, attempts, owner, started, mark, unpack(words)}, ' '))
end

-- Read a job: the values of READ_FIELDS in jobs/store/codec.py.
local function read_job(id)
  local state, head, facts, failure, bytes =
    unpack(redis.call('HMGET', job_key(id), 'state', 'head', 'facts', 'error', 'output_bytes'))
  local output = not bytes and state_name(state) == 'succeeded' and redis.call('HGET', job_key(id), 'body')
  return {state, head, facts, output, failure, bytes}
end
