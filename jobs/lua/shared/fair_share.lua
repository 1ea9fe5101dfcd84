-- Fair shares of a claim: jobs of a lane by rotation of its tenants or by weights, within their limits of running jobs.
-- `with fair_share`, after `queues`. The script sets `budget`, `shares` and `claim_from_queue`, which adds jobs to
-- `claimed` and their rows to `claimed_rows`. Slots, shares and limits count rows; the last job of a share may go beyond it.
local claimed, claimed_rows, parked = {}, 0, 0
local budget  -- ids to read, which bounds a claim over many overdue jobs
-- tenant → {weight, limit of running rows}; '' stands for all others; false = equal weights, no limits
local shares
local claim_from_queue  -- (queue, limit): claim jobs up to `limit` rows; return whether some are left in the queue
local running_mark = '-'  -- of the claimed jobs: '+' if their tenant has a limit of running jobs
local tenants_left = {}  -- lane → tenants in its rotation, once it was read
local debts = {}  -- tenant → rows that its jobs of several rows got beyond its shares, until others have had theirs
local served, weight_served = {}, 0  -- tenant → rows that it got in this claim; the weights of these tenants
local skipped, first_skipped = 0, nil  -- turns that tenants in debt missed; the first of them since the last one served

local function weight_of(tenant) return shares and (shares[tenant] or shares[''])[1] or 1 end

-- Remove the next tenant from a rotation and return it; nil if there is none. One in debt misses its turn, but once all
-- that wait are in debt, all debts are forgotten.
local function next_tenant(rotation)
  while budget > 0 do
    local tenant = redis.call('LPOP', rotation)
    if tenant and tenant == first_skipped then debts = {} end
    if not tenant or not debts[tenant] then
      first_skipped = nil
      return tenant
    end
    redis.call('RPUSH', rotation, tenant)
    first_skipped, skipped, budget = first_skipped or tenant, skipped + 1, budget - 1
  end
end

-- Record the rows that a tenant got in its turn.
local function record_turn(tenant, share, taken)
  if taken == 0 then return end
  if not served[tenant] then weight_served = weight_served + weight_of(tenant) end
  served[tenant] = (served[tenant] or 0) + taken
  if taken > share then debts[tenant] = taken - share end
end

-- Return the debts after this claim, ' <tenant> <rows>' each. What others got meanwhile pays a debt, for equal weights by
-- their average.
local function debts_left()
  local words = {}
  for tenant, debt in pairs(#claimed > 0 and debts or {}) do
    local others = weight_served - (served[tenant] and weight_of(tenant) or 0)
    if others > 0 then debt = debt - (claimed_rows - (served[tenant] or 0)) * weight_of(tenant) / others end
    if debt >= 1 then words[#words + 1] = string.format(' %s %.2f', tenant, debt) end
  end
  return table.concat(words)
end

-- Return how many more rows of a tenant may run, and the field that counts them; nil without a limit.
local function running_left(tenant, limit)
  if limit >= 2 ^ 53 then return limit, nil end
  local field = '@' .. tenant .. ':running'
  return limit - (tonumber(redis.call('HGET', root .. ':open_totals', field)) or 0), field
end

-- Claim from a lane as `claim_from_lane`, with weights: in each round a tenant gets jobs in proportion to its weight.
-- The scheduler position keeps the rest of a share that the end of a claim cuts off; the next claim continues there. A
-- tenant at its limit of running jobs is parked (see queues.lua), so that a claim reads only as many tenants as it has
-- budget for.
local function claim_by_weight(model, version, lane, slots)
  if slots <= 0 then return end
  local rotation, goal, weights = rotation_key(model, version, lane), claimed_rows + slots, 0
  -- With at least as many tenants as slots, the weights add up to the slots and the unit is 1, whatever the others
  -- weigh.
  for _, tenant in ipairs(redis.call('LRANGE', rotation, 0, slots - 1)) do
    weights = weights + (shares[tenant] or shares[''])[1]
  end
  if weights == 0 then return end
  local unit, position = math.ceil(slots / weights), model .. ':' .. version .. ':' .. lane
  local left, cut_tenant = string.match(redis.call('HGET', root .. ':fair_share', position) or '', '^(%d+) (.+)$')
  while claimed_rows < goal and budget > 0 do
    local tenant = next_tenant(rotation)
    if not tenant then break end
    local weight, limit = unpack(shares[tenant] or shares[''])
    local share = (tenant == cut_tenant and tonumber(left) or weight) * unit
    local before, room, field = claimed_rows, running_left(tenant, limit)
    running_mark = field and '+' or '-'
    local queue = queue_key(model, version, lane, tenant)
    local has_more = room <= 0 or claim_from_queue(queue, math.min(goal - claimed_rows, share, room))
    local taken = claimed_rows - before
    record_turn(tenant, share, taken)
    if field and taken > 0 then redis.call('HINCRBY', root .. ':open_totals', field, taken) end
    local units = math.ceil((share - taken) / unit)
    cut_tenant = nil
    if has_more and room <= taken then
      redis.call('SADD', root .. ':parked:' .. tenant, model .. ' ' .. version .. ' ' .. lane)
      redis.call('ZADD', root .. ':parked', 'NX', int_text(now_ms), tenant)
      parked, budget = parked + 1, budget - 1
    elseif has_more and units > 0 and claimed_rows >= goal then
      redis.call('LPUSH', rotation, tenant)
      cut_tenant, left = tenant, units
    elseif has_more then
      redis.call('RPUSH', rotation, tenant)
    end
  end
  running_mark = '-'
  if cut_tenant then
    redis.call('HSET', root .. ':fair_share', position, int_text(left) .. ' ' .. cut_tenant)
  else
    redis.call('HDEL', root .. ':fair_share', position)
  end
end

-- Claim up to `slots` more jobs of a lane, in the order of its tenant rotation, from at most `max_tenants` tenants.
local function claim_from_lane(model, version, lane, slots, max_tenants)
  if slots <= 0 or tenants_left[lane] == 0 then return end
  first_skipped = nil
  if shares and lane ~= 'suspect' then return claim_by_weight(model, version, lane, slots) end
  local rotation, goal = rotation_key(model, version, lane), claimed_rows + slots
  local tenants = tenants_left[lane] or redis.call('LLEN', rotation)
  while claimed_rows < goal and tenants > 0 and budget > 0 and max_tenants > 0 do
    local tenant = next_tenant(rotation)
    if not tenant then break end
    local queue, before = queue_key(model, version, lane, tenant), claimed_rows
    local share = math.ceil((goal - claimed_rows) / math.min(tenants, max_tenants))
    local has_more = claim_from_queue(queue, share)
    record_turn(tenant, share, claimed_rows - before)
    if has_more then
      redis.call('RPUSH', rotation, tenant)
    else
      tenants = tenants - 1
    end
    max_tenants = max_tenants - 1
  end
  tenants_left[lane] = tenants
end
