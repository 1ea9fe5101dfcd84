-- Free slots that workers announce: whom to wake, or to hand a job off to (`with free_slots`).
-- `:free_slots:<model>:<version>` holds '<worker> <lease_ms>' by free slots. A job that is handed off gets this lease,
-- the one that the worker would have claimed, whatever other processes have as JITNEY_LEASE_S. Score 0: the worker is
-- full while interactive jobs wait, and takes one overflow job of a tenant without a queue, so that no tenant can fill
-- all slots of a model with slow inputs.
local BULK_EXCLUDED = 0.5  -- added to the slots of a worker that keeps them from bulk jobs; it claims some itself soon

local function free_slots_key(model, version) return root .. ':free_slots:' .. model .. ':' .. version end
local function accepts_lane(slots, lane) return lane ~= 'bulk' or slots % 1 == 0 end
local function format_member(worker, lease_ms) return worker .. ' ' .. lease_ms end
local function parse_member(member) return string.match(member, '^(%S+) (%d+)$') end

-- Announce a worker's free slots; nil = it takes no job until its next claim.
local function announce_slots(model, version, worker, lease_ms, slots)
  local key, member = free_slots_key(model, version), format_member(worker, lease_ms)
  if not slots then return redis.call('ZREM', key, member) end
  redis.call('ZADD', key, slots, member)
  redis.call('EXPIRE', key, 60)
end

-- Return the member with the most free slots for jobs of this lane (nil = of any lane) and its score, which is 0 if all
-- are full; nil if there is none.
local function most_free(model, version, lane)
  local key = free_slots_key(model, version)
  local members = redis.call('ZRANGE', key, 0, 0, 'REV', 'WITHSCORES')
  if not members[1] or accepts_lane(members[2], lane) then return unpack(members) end
  members = redis.call('ZRANGE', key, 0, -1, 'REV', 'WITHSCORES')
  for at = 1, #members, 2 do
    if accepts_lane(members[at + 1], lane) then return members[at], members[at + 1] end
  end
end

-- Wake the worker with the most free slots for jobs of this lane, so that it claims. Return false if none has any. A
-- dead worker does not receive the message: then the next one is woken.
local function wake_worker(model, version, lane)
  while true do
    local member, slots = most_free(model, version, lane)
    if not member or tonumber(slots) == 0 then return false end
    redis.call('ZREM', free_slots_key(model, version), member)
    local worker = parse_member(member)
    if worker and redis.call('PUBLISH', 'jitney:wake:' .. worker, model .. ' ' .. version) > 0 then return true end
  end
end
