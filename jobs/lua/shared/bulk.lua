-- Bulks, jobs of many lines, and the steps that take them forward: for scripts that say `with bulk`, after `completion`.
-- A bulk waits for its next step in `:bulk_due:<tenant>`, by the ms at which it is due; `:bulk_due` has the tenants, who take turns.
-- While a step is made the bulk is in `:bulk_running`, by the ms at which the step counts as lost. A flight is one handing out; only
-- a bulk's last one may write.
local function bulk_key(bulk) return root .. ':bulk:' .. bulk end
local function file_key(file) return root .. ':file:' .. file end

-- Whether this flight may write; if so it counts for as long again.
local function flies(bulk, flight, flight_ms)
  local lasts = redis.call('HGET', bulk_key(bulk), 'lease_token') == flight and redis.call('ZSCORE', root .. ':bulk_running', bulk)
  if lasts then redis.call('ZADD', root .. ':bulk_running', whole(now_ms + flight_ms), bulk) end
  return lasts
end

-- Have a bulk's next step made at a time.
local function step_at(bulk, tenant, ms)
  redis.call('ZADD', root .. ':bulk_due:' .. tenant, whole(ms), bulk)
  take_place(root .. ':bulk_due', tenant)
end

-- The bulks whose step is made: tenant → how many, and those of which nothing is heard any more. No more than there are threads.
local function steps_under_way()
  local by_tenant, lost = {}, {}
  local members = redis.call('ZRANGE', root .. ':bulk_running', 0, -1, 'WITHSCORES')
  for at = 1, #members, 2 do
    local tenant = redis.call('HGET', bulk_key(members[at]), 'tenant') or ''
    if tonumber(members[at + 1]) <= now_ms then
      lost[#lost + 1] = {members[at], tenant}
    else
      by_tenant[tenant] = (by_tenant[tenant] or 0) + 1
    end
  end
  return by_tenant, lost
end

-- A step came to its checkpoint or to its end: the faults and losses before it do not count any more.
local function went_well(bulk) redis.call('HDEL', bulk_key(bulk), 'faults', 'losses', 'not_before') end

-- A file is in its tenant's list, and among those that expire.
local function list_file(file, tenant, expires_ms, kept_s)
  redis.call('ZADD', root .. ':files:' .. tenant, whole(now_ms), file)
  redis.call('EXPIRE', root .. ':files:' .. tenant, kept_s)
  redis.call('ZADD', root .. ':expiring_files', expires_ms, file)
end
