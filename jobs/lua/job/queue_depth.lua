-- Count a model version's queued jobs by lane and find the oldest, for one page of tenants, also those that are parked.
-- ARGV     model, version, offset, count (tenants to read of each rotation)
-- returns  {1 = there are more tenants, then of the lanes interactive, bulk, suspect: jobs, sequence number of the
--          oldest ('' = none)}
-- with events, free_slots, queues
local model, version, first, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local answer = {0}
local parked = redis.call('ZRANGE', root .. ':parked', first, first + count - 1)

local function add(number, queue)
  answer[number] = answer[number] + redis.call('ZCARD', queue)
  local oldest = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2]
  local known = tonumber(answer[number + 1])
  if oldest and (not known or tonumber(oldest) < known) then answer[number + 1] = int_text(oldest) end
end

for lane_number, lane in ipairs({'interactive', 'bulk', 'suspect'}) do
  local number = 2 * lane_number
  answer[number], answer[number + 1] = 0, ''
  local tenants = redis.call('LRANGE', rotation_key(model, version, lane), first, first + count - 1)
  for _, tenant in ipairs(tenants) do add(number, queue_key(model, version, lane, tenant)) end
  if #tenants == count or #parked == count then answer[1] = 1 end
  for _, tenant in ipairs(parked) do
    if redis.call('SISMEMBER', root .. ':parked:' .. tenant, model .. ' ' .. version .. ' ' .. lane) == 1 then
      add(number, queue_key(model, version, lane, tenant))
    end
  end
end
return answer
