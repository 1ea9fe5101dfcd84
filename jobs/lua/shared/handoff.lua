-- Handoffs of new jobs to workers with free slots, without a claim (`with handoff`, after `free_slots`, `queues`).
-- A job of a tenant without a queue is handed off under a lease. The worker receives {'<model> <version>', slots
-- left, jobs as claim returns them, rows of bulk jobs} in MessagePack, whose encoder copies an input only once.
-- Large inputs are not in the message: the worker reads them (jobs/store/inputs.py).
local handoffs = {}  -- '<model>:<version>' → the worker that takes jobs of it, and these jobs; false = there is none

-- Return the handoff to the listening worker with the most free slots for a route's model version; nil if there is none,
-- or none for its lane, or too few slots for these rows. A full worker takes an overflow job, of one row, only while
-- interactive jobs of others wait. `state`: the words of its jobs' states up to the time of the claim.
local function handoff_for(route, rows)
  local model, version, lane, name = route.model, route.version, route.lane, route.model_version
  while handoffs[name] == nil do
    local member, free = most_free(model, version)
    local worker, lease_ms = parse_member(member or '')
    if not member then
      handoffs[name] = false
    elseif not worker or redis.call('PUBSUB', 'NUMSUB', 'jitney:wake:' .. worker)[2] == 0 then
      redis.call('ZREM', free_slots_key(model, version), member)
    else
      handoffs[name] = {name = name, model = model, version = version, member = member, worker = worker,
        lease_ends = now_ms + lease_ms, takes_bulk = accepts_lane(free, 'bulk'), free = math.floor(free),
        state = 'running 1 ' .. worker .. ' ', jobs = {}, rows = 0, bulk = 0}
    end
  end
  local handoff = handoffs[name]
  if handoff and handoff.free == 0 then
    local has_overflow = lane == 'interactive' and rows == 1 and redis.call('EXISTS', rotation_key(model, version, lane)) == 1
    return has_overflow and handoff or nil
  end
  local fits = handoff and handoff.rows + rows <= handoff.free and (lane ~= 'bulk' or handoff.takes_bulk)
  return fits and handoff or nil
end

-- Send the jobs that were gathered for a model version to their worker, and subtract them from its free slots.
local function send_handoff(handoff)
  if #handoff.jobs == 0 then return end
  local key, name = free_slots_key(handoff.model, handoff.version), handoff.model .. ' ' .. handoff.version
  local left = math.floor(redis.call('ZINCRBY', key, -handoff.rows, handoff.member))
  if left <= 0 then redis.call('ZREM', key, handoff.member) end
  handoffs[handoff.name] = nil
  redis.call('PUBLISH', 'jitney:wake:' .. handoff.worker, cmsgpack.pack({name, left, handoff.jobs, handoff.bulk}))
end

-- Add a job, as claim returns it, to a handoff; send the handoff if its slots are full.
local function add_to_handoff(handoff, lane, job, rows)
  handoff.jobs[#handoff.jobs + 1], handoff.rows = job, handoff.rows + rows
  if lane == 'bulk' then handoff.bulk = handoff.bulk + rows end
  if handoff.rows >= handoff.free then send_handoff(handoff) end
end

-- Send the handoffs that have free slots left.
local function send_handoffs()
  for _, handoff in pairs(handoffs) do
    if handoff then send_handoff(handoff) end
  end
end

-- Return whether no worker had a free slot when a handoff for this model version was looked for.
local function found_no_worker(model, version)
  local handoff = handoffs[model .. ':' .. version]
  return handoff == false or (handoff and handoff.free == 0)
end
