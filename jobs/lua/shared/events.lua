-- State changes of jobs, for gateways that follow a job and for a tenant's event log; a job's facts (`with events`).

-- Publish that a job has entered a state, to the gateways among its watchers that follow it and, if `logged`, to those
-- whose clients listen to all events of its tenant.
local function publish_state(id, state, watchers, logged, tenant)
  for gateway in string.gmatch(watchers, '([^ +]+)%+') do
    redis.call('PUBLISH', 'jitney:gateway:' .. gateway, cmsgpack.pack({{id}}))
  end
  if not logged then return end
  redis.call('XADD', root .. ':job_events:' .. tenant, 'MAXLEN', '~', 10000, '*', 'id', id, 'status', state)
  redis.call('EXPIRE', root .. ':job_events:' .. tenant, 3600)
  redis.call('PUBLISH', 'jitney:events', tenant)
end

-- Return the map of a job's facts, which is empty for most.
local NO_FACTS = {}
local function unpack_facts(facts)
  if not facts then return NO_FACTS end
  local is_packed, map = pcall(cmsgpack.unpack, facts)
  return is_packed and type(map) == 'table' and map or NO_FACTS
end

-- Return the number of rows of a job, by which it counts against limits, from the map of its facts.
local function rows_of(map) return tonumber(map.rows) or 1 end
