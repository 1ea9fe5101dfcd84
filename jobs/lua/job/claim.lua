-- Take up to `want` waiting jobs of one model version under a lease; on trial = '1' the suspects of one cell instead.
-- ARGV  model, version, worker, lease_ms, want, bulk_share (one seat in so many is bulk's while both lanes wait),
--       v (the record version that the worker reads), trial, shards, how long what has ended is kept, shares (JSON: tenant → its
--       weight and how many of it may run; '' stands for all others; no JSON = all weigh the same and may run),
--       most_bulk (so many seats are bulk's, and the others stay empty; '' = bulk has its share and all that stay empty)
-- gives {more, suspects, jobs, bulk, held}: more = 1 where this claim was cut short and the next finds more at once; suspects =
--       1 where a cell waits for its trial; bulk = how many of the jobs are; held = 1 where seats stay empty though bulk waits;
--       per job {id, attempt, kind, input, parameters, created_us, claimed_us, deadline_ms, retries, tenant}
-- Jobs whose deadline has passed end here as expired, and what nobody can read as failed. Where it finds too few, the seats
-- left free are noted: submit hands jobs over to them. Where it fills all and others wait, the worker is noted as a host: it
-- takes one guest more, of a tenant that has nobody in line. Safe to lose: jobs whose answer never arrives go back when their
-- lease ends.
-- with events, queues, outbox, completion
local model, version, worker, lease_ms, want = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local MAX_BYTES = 16 * 1024 * 1024  -- of inputs in one answer, so that it arrives soon; one job always fits
local bytes, budget = 0, 4 * want + 64  -- how many ids are looked at: a claim over a heap of overdue jobs ends too
local bulk_share, version_read, ends = tonumber(ARGV[6]), tonumber(ARGV[7]), ends_at(10)
local claimed, given_up, parked, cut = {}, 0, 0, false
local bulk, held, most_bulk = 0, false, tonumber(ARGV[15])
local shares = ARGV[14] ~= '' and cjson.decode(ARGV[14])
local seat_mark = {}  -- fields for jobs of a tenant that may run so many
local leases, lease_ends = {}, whole(now_ms + lease_ms)

local tenants_in = {}  -- lane → how many tenants its ring has, once it was looked at

local function give_up(id, state, body)
  given_up = given_up + 1
  conclude(id, state, ends, 'error', body, state == 'failed')
  return true
end

-- Seat a job; false where it must stay in its line: it is too large for this answer, or of a later release.
local function seat(id)
  local job = facts_of(id, 'state', 'deadline', 'kind', 'size', 'parameters', 'created', 'v', 'attempts', 'model', 'retries',
    'followers', 'event_log', 'tenant')
  if job[1] ~= 'queued' then return true end
  if (tonumber(job[7]) or 0) > version_read then return false end
  local readable = tonumber(job[2]) and job[3] and tonumber(job[4]) and job[5] and tonumber(job[6]) and tonumber(job[7]) == version_read
    and tonumber(job[8]) and job[9]
  if not readable then return give_up(id, 'failed', UNREADABLE) end
  if tonumber(job[2]) <= now_ms then return give_up(id, 'expired', EXPIRED) end
  if #claimed > 0 and bytes + job[4] + #job[5] > MAX_BYTES then  -- before the input is read: reading it is what costs
    budget, cut = 0, true
    return false
  end
  local input = redis.call('HGET', job_key(id), 'input')
  if not input then return give_up(id, 'failed', UNREADABLE) end
  bytes = bytes + job[4] + #job[5]
  local attempt = whole(job[8] + 1)
  redis.call('HSET', job_key(id), 'state', 'running', 'owner', worker, 'started', NOW_US, 'attempts', attempt,
    unpack(seat_mark))
  leases[#leases + 1], leases[#leases + 2] = lease_ends, id
  if job[11] or job[12] then changed(id, 'running', job[11], job[12]) end
  claimed[#claimed + 1] = {id, attempt, job[3], input, job[5], job[6], NOW_US, job[2], job[10] or '0', job[13] or ''}
  return true
end

-- Seat up to `count` of a line; true where some are left.
local function seat_from(line, count)
  local popped = redis.call('ZPOPMIN', line, math.min(budget, count))
  for at = 1, #popped, 2 do
    budget = budget - 1
    if not seat(popped[at]) then redis.call('ZADD', line, popped[at + 1], popped[at]) end
  end
  return redis.call('EXISTS', line) == 1
end

-- How many more of a tenant may run; and what counts them.
local function room_of(tenant, most)
  if most >= 2 ^ 53 then return most, nil end
  local field = '@' .. tenant .. ':running'
  return most - (tonumber(redis.call('HGET', root .. ':open_totals', field)) or 0), field
end

-- As `fill`, by weight: in each round a tenant has seats for as much as it weighs. A turn that the end of a claim cuts short
-- goes on in the next one. A tenant of which enough run leaves the ring until one of its jobs ends (it is parked, see queues.lua), so that a claim
-- looks at no more tenants than it has budget for, however many wait.
local function fill_by_weight(lane, seats)
  if seats <= 0 then return end
  local ring, goal, sum = ring_key(model, version, lane), #claimed + seats, 0
  -- With as many tenants as seats the sum is at least the number of seats, and the unit is 1 whatever the others weigh.
  for _, tenant in ipairs(redis.call('LRANGE', ring, 0, seats - 1)) do sum = sum + (shares[tenant] or shares[''])[1] end
  if sum == 0 then return end
  local unit, turn = math.ceil(seats / sum), model .. ':' .. version .. ':' .. lane
  local left, whose = string.match(redis.call('HGET', root .. ':fair_share', turn) or '', '^(%d+) (.+)$')
  while #claimed < goal and budget > 0 do
    local tenant = redis.call('LPOP', ring)
    if not tenant then break end
    local weight, most = unpack(shares[tenant] or shares[''])
    local credit = (tenant == whose and tonumber(left) or weight) * unit
    local before, room, field = #claimed, room_of(tenant, most)
    seat_mark = field and {'running_mark', '@' .. tenant} or {}
    local waits = room <= 0 or seat_from(line_key(model, version, lane, tenant), math.min(goal - #claimed, credit, room))
    local taken = #claimed - before
    if field and taken > 0 then redis.call('HINCRBY', root .. ':open_totals', field, taken) end
    local units = math.ceil((credit - taken) / unit)
    whose = nil
    if waits and room <= taken then
      redis.call('SADD', root .. ':parked:' .. tenant, model .. ' ' .. version .. ' ' .. lane)
      redis.call('ZADD', root .. ':parked', 'NX', whole(now_ms), tenant)
      parked, budget = parked + 1, budget - 1
    elseif waits and units > 0 and #claimed >= goal then
      redis.call('LPUSH', ring, tenant)
      whose, left = tenant, units
    elseif waits then
      redis.call('RPUSH', ring, tenant)
    end
  end
  seat_mark = {}
  if whose then redis.call('HSET', root .. ':fair_share', turn, whole(left) .. ' ' .. whose) else redis.call('HDEL', root .. ':fair_share', turn) end
end

-- Fill up to `seats` more from a lane; its tenants take turns, at most `turns` of them.
local function fill(lane, seats, turns)
  if seats <= 0 or tenants_in[lane] == 0 then return end
  if shares and lane ~= 'suspect' then return fill_by_weight(lane, seats) end
  local ring, goal = ring_key(model, version, lane), #claimed + seats
  local tenants = tenants_in[lane] or redis.call('LLEN', ring)
  while #claimed < goal and tenants > 0 and budget > 0 and turns > 0 do
    local tenant = redis.call('LPOP', ring)
    local line = line_key(model, version, lane, tenant)
    if seat_from(line, math.ceil((goal - #claimed) / math.min(tenants, turns))) then
      redis.call('RPUSH', ring, tenant)
    else
      tenants = tenants - 1
    end
    turns = turns - 1
  end
  tenants_in[lane] = tenants
end

-- One cell at a time, whichever worker tries it: if it kills again, the others still serve.
local trial_key = trial_key_of(model, version)
local function a_trial_runs()
  local tried = redis.call('GET', trial_key)
  if tried == RESTING then return true end
  for id in string.gmatch(tried or '', '[^ ]+') do
    if facts_of(id, 'state')[1] == 'running' then return true end
  end
  return false
end

local function try_suspects()
  if a_trial_runs() then return end
  fill('suspect', want, 1)
  local ids = {}
  for at, job in ipairs(claimed) do ids[at] = job[1] end
  if #ids > 0 then redis.call('SET', trial_key, table.concat(ids, ' '), 'EX', 86400) end
end

local function fill_seats()
  local turns = model .. ':' .. version
  local given = tonumber(redis.call('HGET', root .. ':fair_share', turns)) or 0
  local for_bulk = math.floor((given + want) / bulk_share) - math.floor(given / bulk_share)
  fill('bulk', math.min(want, most_bulk or for_bulk), math.huge)
  local before = #claimed
  fill('interactive', want - #claimed, math.huge)
  local interactive = #claimed - before
  if not most_bulk then
    fill('bulk', want - #claimed, math.huge)
  elseif #claimed < want then
    held = redis.call('EXISTS', ring_key(model, version, 'bulk')) == 1
  end
  bulk = #claimed - interactive
  if #claimed > 0 then redis.call('HSET', root .. ':fair_share', turns, (given + #claimed) % 1000000) end
end

if ARGV[8] == '1' then try_suspects() else fill_seats() end
local suspects = redis.call('EXISTS', ring_key(model, version, 'suspect')) == 1 and not a_trial_runs()
-- Jobs of a later release that use the budget up are no reason to come back at once: nothing moved.
local more = cut or (budget <= 0 and #claimed < want and given_up + parked > 0)
for_many('ZADD', root .. ':leases', leases)
local note = noted_as(worker, lease_ms)
if #claimed < want and not more and ARGV[8] ~= '1' then
  local free = math.ceil((want - #claimed) / ARGV[9])
  redis.call('ZADD', seats_key(model, version), held and free + KEPT_FROM_BULK or free, note)
  redis.call('EXPIRE', seats_key(model, version), 60)
else
  redis.call('ZREM', seats_key(model, version), note)
  local waiting = tenants_in.interactive or redis.call('EXISTS', ring_key(model, version, 'interactive'))
  if ARGV[8] ~= '1' and waiting > 0 then
    redis.call('SADD', hosts_key(model, version), note)
    redis.call('EXPIRE', hosts_key(model, version), 60)
  end
end
close()
return {more and 1 or 0, suspects and 1 or 0, claimed, bulk, held and 1 or 0}
