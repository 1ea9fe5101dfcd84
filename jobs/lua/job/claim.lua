-- Claim queued jobs of a model version under a lease, or one suspect group; announce slots that stay free.
-- ARGV     model, version, worker, lease_ms, count (of rows; the last job may have more), bulk_share (one of this many
--          claimed rows is of lane bulk while both lanes wait), record version that the worker reads, isolated ('1' =
--          claim a suspect group), number of shards, retention (4 arguments), tenant shares (JSON: tenant → {weight,
--          limit of running rows}; '' stands for all others; an empty argument = equal weights without limits),
--          max_bulk (at most this many rows of bulk jobs, and no others in their slots; '' = bulk jobs get their share
--          and every slot that stays free), and of a model with one paused lane: that lane, which gets no slots
-- returns  {more, suspects, jobs, bulk, held}: more = 1 if the claim was cut short and the next one finds jobs at once;
--          suspects = 1 if a suspect group waits; bulk = rows of bulk jobs; held = 1 if slots stay free although bulk
--          jobs wait; per job {id, attempt, head, input, claimed_us} (see `common`), then facts and retries if it has
--          any; the input is nil if it has a key of its own
-- Jobs past their deadline end as expired, unreadable ones as failed. Slots that stay free are announced for
-- handoffs by submit. Safe to lose: jobs of a lost reply return to their queues when their leases end.
-- with events, free_slots, queues, outbox, outputs, completion, fair_share
local model, version, worker, lease_ms, count = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local MAX_BYTES = 16 * 1024 * 1024  -- of inputs in one reply, so that it arrives soon; one job always fits
local bytes = 0
budget = 4 * count + 64
local bulk_share, record_version, retention = tonumber(ARGV[6]), tonumber(ARGV[7]), retention_at(10)
local is_isolated = ARGV[8] == '1'
local ended, is_cut = 0, false
local bulk, is_held, max_bulk = 0, false, tonumber(ARGV[15])
local paused_lane = ARGV[16]
if paused_lane == 'bulk' then max_bulk = 0 elseif paused_lane then max_bulk = nil end
shares = ARGV[14] ~= '' and cjson.decode(ARGV[14])
local timers, lease_ends = {}, now_ms + lease_ms
local claim_words = ' ' .. worker .. ' ' .. NOW_US .. ' '

local function end_queued(id, state, body)
  ended = ended + 1
  end_job(id, state, retention, body, state == 'failed')
  return true
end

local function is_number(word) return string.find(word or '', '^%d+$') end

-- Claim a job. Return false if it must stay queued: it is too large for this reply, or its record is of a newer
-- version.
local function claim_job(id)
  local words, head, input, facts, retries = unpack(job_fields(id, 'state', 'head', 'body', 'facts', 'retries'), 1, 5)
  if state_name(words) ~= 'queued' then return true end
  local attempts, watchers = string.match(words, '^queued (%d+) %S+ %S+ %S+( ?.*)$')
  local v, size, deadline, created, kind, route = string.match(head or '', HEAD)
  v = tonumber(string.match(head or '', '^%d+'))
  if v and v > record_version then return false end
  local is_readable = attempts and v == record_version and is_number(deadline) and is_number(created)
    and kind ~= '' and (input or tonumber(size) >= OWN_KEY_BYTES) and parse_route(route)
  if not is_readable then
    return end_queued(id, 'failed', UNREADABLE)
  end
  if tonumber(deadline) <= now_ms then return end_queued(id, 'expired', EXPIRED) end
  local more_bytes = size + (facts and #facts or 0)
  if #claimed > 0 and bytes + more_bytes > MAX_BYTES then
    budget, is_cut = 0, true
    return false
  end
  bytes = bytes + more_bytes
  local attempt = attempts + 1
  redis.call('HSET', job_key(id), 'state', 'running ' .. attempt .. claim_words .. running_mark .. watchers)
  timers[#timers + 1], timers[#timers + 2] = timer_of(lease_ends, deadline), id
  if watchers ~= '' or facts then
    publish_state(id, 'running', watchers, unpack_facts(facts).logged, parse_route(route).tenant)
  end
  local job = {id, attempt, head, input, NOW_US}
  if facts or retries then job[6], job[7] = facts or '', retries or '0' end
  claimed[#claimed + 1] = job
  claimed_rows = claimed_rows + (facts and rows_of(unpack_facts(facts)) or 1)
  return true
end

function claim_from_queue(queue, limit)
  local popped, goal, left = redis.call('ZPOPMIN', queue, math.min(budget, limit)), claimed_rows + limit, {}
  for at = 1, #popped, 2 do
    local is_wanted = claimed_rows < goal
    if is_wanted then budget = budget - 1 end
    if not is_wanted or not claim_job(popped[at]) then
      left[#left + 1], left[#left + 2] = popped[at + 1], popped[at]
    end
  end
  call_in_chunks('ZADD', queue, left)
  return redis.call('EXISTS', queue) == 1
end

-- Return whether an isolated run or its cooldown is under way. There is one at a time per model version and shard, so
-- that other workers keep serving if it kills its worker.
local function isolation_is_busy()
  local ids = redis.call('GET', isolation_key(model, version))
  if ids == COOLDOWN then return true end
  for id in string.gmatch(ids or '', '[^ ]+') do
    if state_name(job_fields(id, 'state')[1]) == 'running' then return true end
  end
  return false
end

local function claim_suspects()
  if isolation_is_busy() then return end
  claim_from_lane(model, version, 'suspect', count, 1)
  local ids = {}
  for at, job in ipairs(claimed) do ids[at] = job[1] end
  if #ids > 0 then redis.call('SET', isolation_key(model, version), table.concat(ids, ' '), 'EX', 86400) end
end

local function claim_from_lanes()
  local field = model .. ':' .. version
  local kept = redis.call('HGET', root .. ':fair_share', field) or ''
  local position = tonumber(string.match(kept, '^%d+')) or 0  -- rows claimed so far
  for tenant, rows in string.gmatch(kept, ' (%S+) ([%d.]+)') do debts[tenant] = tonumber(rows) end
  local for_bulk = math.floor((position + count) / bulk_share) - math.floor(position / bulk_share)
  claim_from_lane(model, version, 'bulk', math.min(count, max_bulk or for_bulk), math.huge)
  local before = claimed_rows
  if paused_lane ~= 'interactive' then
    claim_from_lane(model, version, 'interactive', count - claimed_rows, math.huge)
  end
  local interactive = claimed_rows - before
  if not max_bulk then
    claim_from_lane(model, version, 'bulk', count - claimed_rows, math.huge)
  elseif claimed_rows < count and not paused_lane then
    is_held = redis.call('EXISTS', rotation_key(model, version, 'bulk')) == 1
  end
  bulk = claimed_rows - interactive
  if #claimed + skipped > 0 then
    redis.call('HSET', root .. ':fair_share', field, int_text((position + claimed_rows) % 1000000) .. debts_left())
  end
end

if is_isolated then claim_suspects() else claim_from_lanes() end
local suspects = redis.call('EXISTS', rotation_key(model, version, 'suspect')) == 1 and not isolation_is_busy()
-- Jobs of a newer version that use up the budget do not count: the next claim would find the same ones.
local more = is_cut or (budget <= 0 and claimed_rows < count and ended + parked + skipped > 0)
call_in_chunks('ZADD', root .. ':timers', timers)
local slots  -- to announce
if paused_lane == 'interactive' then
  slots = nil  -- a free slot takes interactive jobs: this worker looks for bulk jobs by itself
elseif claimed_rows < count and not more and not is_isolated then
  slots = math.ceil((count - claimed_rows) / ARGV[9]) + ((is_held or paused_lane) and BULK_EXCLUDED or 0)
elseif not is_isolated then
  local waiting = tenants_left.interactive or redis.call('EXISTS', rotation_key(model, version, 'interactive'))
  slots = waiting > 0 and 0 or nil
end
announce_slots(model, version, worker, lease_ms, slots)
commit()
return {more and 1 or 0, suspects and 1 or 0, claimed, bulk, is_held and 1 or 0}
