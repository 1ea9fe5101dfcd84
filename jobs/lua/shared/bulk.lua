-- Steps of bulk jobs: leases and schedule; keys and lists of stored files (`with bulk`, after `completion`).
-- `:bulk_due:<tenant>` holds a tenant's open bulk jobs by the ms at which their next step is due, `:bulk_due` the
-- tenants in the order of service. While a step runs, `:bulk_running` holds its bulk job by the ms at which the step's
-- lease ends. Each lease has a token; only the newest one may write.
local function bulk_key(bulk) return root .. ':bulk:' .. bulk end
local function file_key(file) return root .. ':file:' .. file end

-- Renew the lease of a step; false if the token is not the newest one or the step has ended.
local function renew_lease(bulk, token, lease_ms)
  local is_valid = redis.call('HGET', bulk_key(bulk), 'lease_token') == token
    and redis.call('ZSCORE', root .. ':bulk_running', bulk)
  if is_valid then redis.call('ZADD', root .. ':bulk_running', int_text(now_ms + lease_ms), bulk) end
  return is_valid
end

-- Schedule a bulk job's next step.
local function schedule_step(bulk, tenant, ms)
  redis.call('ZADD', root .. ':bulk_due:' .. tenant, int_text(ms), bulk)
  update_due(root .. ':bulk_due', tenant)
end

-- Return the number of running steps by tenant, and {bulk, tenant} of each step whose lease has ended. Both are short:
-- no more steps run than the background processes have threads.
local function running_steps()
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

-- Reset the faults and losses in a row: a step reached a checkpoint or its end.
local function clear_faults(bulk) redis.call('HDEL', bulk_key(bulk), 'faults', 'losses', 'not_before') end

-- Add a file to its tenant's list and to the files that expire.
local function list_file(file, tenant, expires_ms, keep_s)
  redis.call('ZADD', root .. ':files:' .. tenant, int_text(now_ms), file)
  redis.call('EXPIRE', root .. ':files:' .. tenant, keep_s)
  redis.call('ZADD', root .. ':expiring_files', expires_ms, file)
end
