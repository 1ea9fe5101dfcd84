-- Bulks, jobs of many lines, and the steps that take them forward: for scripts that say `with bulks`, after `ends`.
-- A bulk waits for its next step in `:steps`, by the ms at which it is due; while a step is made it is in `:stepping`, by the ms
-- at which the step counts as lost. A flight is one handing out; only a bulk's last one may write.
local function bulk_key(bulk) return root .. ':bulk:' .. bulk end
local function file_key(file) return root .. ':file:' .. file end

-- Whether this flight may write; if so it counts for as long again.
local function flies(bulk, flight, flight_ms)
  local lasts = redis.call('HGET', bulk_key(bulk), 'flight') == flight and redis.call('ZSCORE', root .. ':stepping', bulk)
  if lasts then redis.call('ZADD', root .. ':stepping', whole(now_ms + flight_ms), bulk) end
  return lasts
end

-- A step came to its checkpoint or to its end: the faults and losses before it do not count any more.
local function went_well(bulk) redis.call('HDEL', bulk_key(bulk), 'faults', 'losses', 'not_before') end

-- A file is in its tenant's list, and among those that expire.
local function list_file(file, tenant, expires_ms, kept_s)
  redis.call('ZADD', root .. ':files:' .. tenant, whole(now_ms), file)
  redis.call('EXPIRE', root .. ':files:' .. tenant, kept_s)
  redis.call('ZADD', root .. ':expiring', expires_ms, file)
  redis.call('EXPIRE', root .. ':expiring', kept_s)
end
