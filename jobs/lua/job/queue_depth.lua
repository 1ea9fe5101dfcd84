-- Count a model version's queued jobs per lane for one page of tenants, including those at their concurrency limit.
-- ARGV     model, version, offset, count (tenants to read of each rotation), '1' = return ages too
-- returns  {1 = there are more tenants, jobs in lane interactive, in lane bulk, suspects}; then, if ARGV[5] is '1', the
--          ages in µs of the oldest job of each of the three, 0 = there is none
-- with events, free_slots, queues
local model, version, first, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local more, depths, ages = 0, {0, 0, 0}, {}

-- Count the jobs of a queue, and compare its oldest.
local function add_queue(number, queue)
  depths[number] = depths[number] + redis.call('ZCARD', queue)
  if ages[number] then
    local accepted_us = tonumber(redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2]) or now_us
    ages[number] = math.max(ages[number], now_us - accepted_us)
  end
end

if ARGV[5] == '1' then ages = {0, 0, 0} end
local parked = redis.call('ZRANGE', root .. ':parked', first, first + count - 1)
for number, lane in ipairs({'interactive', 'bulk', 'suspect'}) do
  local tenants = redis.call('LRANGE', rotation_key(model, version, lane), first, first + count - 1)
  for _, tenant in ipairs(tenants) do
    add_queue(number, queue_key(model, version, lane, tenant))
  end
  if #tenants == count or #parked == count then more = 1 end
  for _, tenant in ipairs(parked) do
    if redis.call('SISMEMBER', root .. ':parked:' .. tenant, model .. ' ' .. version .. ' ' .. lane) == 1 then
      add_queue(number, queue_key(model, version, lane, tenant))
    end
  end
end
return {more, depths[1], depths[2], depths[3], unpack(ages)}
