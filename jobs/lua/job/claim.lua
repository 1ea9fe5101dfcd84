-- Claim up to `count` queued jobs of one model version under a lease, or one suspect group for an isolated run.
-- ARGV     model, version, worker, lease_ms, count, bulk_share (one of this many claimed jobs is of lane bulk while
--          both lanes wait), record version that the worker reads, isolated ('1' = claim a suspect group), number of
--          shards, retention (4 arguments), tenant shares (JSON: tenant → {weight, limit of running jobs}; '' stands
--          for all others; an empty argument = equal weights without limits), max_bulk (at most this many bulk jobs,
--          and no others in their slots; '' = bulk jobs get their share and every slot that stays free)
-- returns  {more, suspects, jobs, bulk, held}: more = 1 if the claim was cut short and the next one finds jobs at once;
--          suspects = 1 if a suspect group waits; bulk = number of bulk jobs; held = 1 if slots stay free although bulk
--          jobs wait; per job {id, attempt, kind, input, parameters, created_us, claimed_us, deadline_ms, retries,
--          tenant}
-- Jobs past their deadline end as expired, unreadable ones as failed. If the claim leaves slots free, they are recorded
-- for handoffs by submit. If it fills all while interactive jobs wait, the worker is recorded for one overflow job of a
-- tenant without a queue. Safe to lose: jobs of a lost reply return to their queues when their leases end.
-- with events, queues, outbox, completion
local model, version, worker, lease_ms, count = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local MAX_BYTES = 16 * 1024 * 1024  -- of inputs in one reply, so that it arrives soon; one job always fits
local bytes, budget = 0, 4 * count + 64  -- `budget`: ids to read, which bounds a claim over many overdue jobs
local bulk_share, record_version, retention = tonumber(ARGV[6]), tonumber(ARGV[7]), retention_at(10)
local is_isolated = ARGV[8] == '1'
local claimed, ended, parked, is_cut = {}, 0, 0, false
local bulk, is_held, max_bulk = 0, false, tonumber(ARGV[15])
local shares = ARGV[14] ~= '' and cjson.decode(ARGV[14])
local mark_fields = {}  -- field and value of the running mark, for jobs of a tenant with a limit of running jobs
local leases, lease_ends = {}, int_text(now_ms + lease_ms)
local tenants_left = {}  -- lane → tenants in its rotation, once it was read

local function end_queued(id, state, body)
  ended = ended + 1
  end_job(id, state, retention, 'error', body, state == 'failed')
  return true
end

-- Claim a job. Return false if it must stay queued: it is too large for this reply, or its record is of a newer
-- version.
local function claim_job(id)
  local job = job_fields(id, 'state', 'deadline', 'kind', 'size', 'parameters', 'created', 'v', 'attempts', 'model',
    'retries', 'followers', 'event_log', 'tenant')
  if job[1] ~= 'queued' then return true end
  if (tonumber(job[7]) or 0) > record_version then return false end
  local is_readable = tonumber(job[2]) and job[3] and tonumber(job[4]) and job[5] and tonumber(job[6])
    and tonumber(job[7]) == record_version and tonumber(job[8]) and job[9]
  if not is_readable then return end_queued(id, 'failed', UNREADABLE) end
  if tonumber(job[2]) <= now_ms then return end_queued(id, 'expired', EXPIRED) end
  if #claimed > 0 and bytes + job[4] + #job[5] > MAX_BYTES then  -- before the expensive step, reading the input
    budget, is_cut = 0, true
    return false
  end
  local input = redis.call('HGET', job_key(id), 'input')
  if not input then return end_queued(id, 'failed', UNREADABLE) end
  bytes = bytes + job[4] + #job[5]
  local attempt = int_text(job[8] + 1)
  redis.call('HSET', job_key(id), 'state', 'running', 'owner', worker, 'started', NOW_US, 'attempts', attempt,
    unpack(mark_fields))
  leases[#leases + 1], leases[#leases + 2] = lease_ends, id
  if job[11] or job[12] then publish_state(id, 'running', job[11], job[12]) end
  claimed[#claimed + 1] = {id, attempt, job[3], input, job[5], job[6], NOW_US, job[2], job[10] or '0', job[13] or ''}
  return true
end

-- Claim up to `limit` jobs of a queue; true if some are left in it.
local function claim_from_queue(queue, limit)
  local popped = redis.call('ZPOPMIN', queue, math.min(budget, limit))
  for at = 1, #popped, 2 do
    budget = budget - 1
    if not claim_job(popped[at]) then redis.call('ZADD', queue, popped[at + 1], popped[at]) end
  end
  return redis.call('EXISTS', queue) == 1
end

-- Return how many more jobs of a tenant may run, and the field that counts them; nil without a limit.
local function running_left(tenant, limit)
  if limit >= 2 ^ 53 then return limit, nil end
  local field = '@' .. tenant .. ':running'
  return limit - (tonumber(redis.call('HGET', root .. ':open_totals', field)) or 0), field
end

-- Claim from a lane as `claim_from_lane`, with weights: in each round a tenant gets jobs in proportion to its weight.
-- The scheduler position keeps the rest of a share that the end of a claim cuts off; the next claim continues there. A
-- tenant at its limit of running jobs is parked (see queues.lua), so that a claim reads only as many tenants as it has
-- budget for.
local function claim_by_weight(lane, slots)
  if slots <= 0 then return end
  local rotation, goal, weights = rotation_key(model, version, lane), #claimed + slots, 0
  -- With at least as many tenants as slots, the weights add up to the slots and the unit is 1, whatever the others
  -- weigh.
  for _, tenant in ipairs(redis.call('LRANGE', rotation, 0, slots - 1)) do
    weights = weights + (shares[tenant] or shares[''])[1]
  end
  if weights == 0 then return end
  local unit, position = math.ceil(slots / weights), model .. ':' .. version .. ':' .. lane
  local left, cut_tenant = string.match(redis.call('HGET', root .. ':fair_share', position) or '', '^(%d+) (.+)$')
  while #claimed < goal and budget > 0 do
    local tenant = redis.call('LPOP', rotation)
    if not tenant then break end
    local weight, limit = unpack(shares[tenant] or shares[''])
    local share = (tenant == cut_tenant and tonumber(left) or weight) * unit
    local before, room, field = #claimed, running_left(tenant, limit)
    mark_fields = field and {'running_mark', '@' .. tenant} or {}
    local queue = queue_key(model, version, lane, tenant)
    local has_more = room <= 0 or claim_from_queue(queue, math.min(goal - #claimed, share, room))
    local taken = #claimed - before
    if field and taken > 0 then redis.call('HINCRBY', root .. ':open_totals', field, taken) end
    local units = math.ceil((share - taken) / unit)
    cut_tenant = nil
    if has_more and room <= taken then
      redis.call('SADD', root .. ':parked:' .. tenant, model .. ' ' .. version .. ' ' .. lane)
      redis.call('ZADD', root .. ':parked', 'NX', int_text(now_ms), tenant)
      parked, budget = parked + 1, budget - 1
    elseif has_more and units > 0 and #claimed >= goal then
      redis.call('LPUSH', rotation, tenant)
      cut_tenant, left = tenant, units
    elseif has_more then
      redis.call('RPUSH', rotation, tenant)
    end
  end
  mark_fields = {}
  if cut_tenant then
    redis.call('HSET', root .. ':fair_share', position, int_text(left) .. ' ' .. cut_tenant)
  else
    redis.call('HDEL', root .. ':fair_share', position)
  end
end

-- Claim up to `slots` more jobs of a lane, in the order of its tenant rotation, from at most `max_tenants` tenants.
local function claim_from_lane(lane, slots, max_tenants)
  if slots <= 0 or tenants_left[lane] == 0 then return end
  if shares and lane ~= 'suspect' then return claim_by_weight(lane, slots) end
  local rotation, goal = rotation_key(model, version, lane), #claimed + slots
  local tenants = tenants_left[lane] or redis.call('LLEN', rotation)
  while #claimed < goal and tenants > 0 and budget > 0 and max_tenants > 0 do
    local tenant = redis.call('LPOP', rotation)
    local queue = queue_key(model, version, lane, tenant)
    if claim_from_queue(queue, math.ceil((goal - #claimed) / math.min(tenants, max_tenants))) then
      redis.call('RPUSH', rotation, tenant)
    else
      tenants = tenants - 1
    end
    max_tenants = max_tenants - 1
  end
  tenants_left[lane] = tenants
end

-- Return whether an isolated run or its cooldown is under way. There is one at a time per model version and shard, so
-- that other workers keep serving if it kills its worker.
local function isolation_is_busy()
  local ids = redis.call('GET', isolation_key(model, version))
  if ids == COOLDOWN then return true end
  for id in string.gmatch(ids or '', '[^ ]+') do
    if job_fields(id, 'state')[1] == 'running' then return true end
  end
  return false
end

local function claim_suspects()
  if isolation_is_busy() then return end
  claim_from_lane('suspect', count, 1)
  local ids = {}
  for at, job in ipairs(claimed) do ids[at] = job[1] end
  if #ids > 0 then redis.call('SET', isolation_key(model, version), table.concat(ids, ' '), 'EX', 86400) end
end

local function claim_from_lanes()
  local field = model .. ':' .. version
  local position = tonumber(redis.call('HGET', root .. ':fair_share', field)) or 0  -- jobs claimed so far
  local for_bulk = math.floor((position + count) / bulk_share) - math.floor(position / bulk_share)
  claim_from_lane('bulk', math.min(count, max_bulk or for_bulk), math.huge)
  local before = #claimed
  claim_from_lane('interactive', count - #claimed, math.huge)
  local interactive = #claimed - before
  if not max_bulk then
    claim_from_lane('bulk', count - #claimed, math.huge)
  elseif #claimed < count then
    is_held = redis.call('EXISTS', rotation_key(model, version, 'bulk')) == 1
  end
  bulk = #claimed - interactive
  if #claimed > 0 then redis.call('HSET', root .. ':fair_share', field, (position + #claimed) % 1000000) end
end

if is_isolated then claim_suspects() else claim_from_lanes() end
local suspects = redis.call('EXISTS', rotation_key(model, version, 'suspect')) == 1 and not isolation_is_busy()
-- Jobs of a newer version that use up the budget do not count: the next claim would find the same ones.
local more = is_cut or (budget <= 0 and #claimed < count and ended + parked > 0)
call_in_chunks('ZADD', root .. ':leases', leases)
local member = format_member(worker, lease_ms)
if #claimed < count and not more and not is_isolated then
  local free = math.ceil((count - #claimed) / ARGV[9])
  redis.call('ZADD', free_slots_key(model, version), is_held and free + BULK_EXCLUDED or free, member)
  redis.call('EXPIRE', free_slots_key(model, version), 60)
else
  redis.call('ZREM', free_slots_key(model, version), member)
  local waiting = tenants_left.interactive or redis.call('EXISTS', rotation_key(model, version, 'interactive'))
  if not is_isolated and waiting > 0 then
    redis.call('SADD', hosts_key(model, version), member)
    redis.call('EXPIRE', hosts_key(model, version), 60)
  end
end
commit()
return {more and 1 or 0, suspects and 1 or 0, claimed, bulk, is_held and 1 or 0}
