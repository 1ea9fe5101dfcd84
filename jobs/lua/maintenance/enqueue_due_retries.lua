-- Jobs whose retry is due go back to their lines. Tenants that have been parked for some seconds go back to their rings, and the
-- next claim looks at them again: the number of jobs that they may run may have changed.
-- ARGV  limit
-- gives how many did
-- with events, queues
local due = redis.call('ZRANGEBYSCORE', root .. ':retries', '-inf', now_ms, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  redis.call('ZREM', root .. ':retries', id)
  local place = facts_of(id, 'state')[1] == 'queued' and place_of(id)
  if place then
    local model, version, lane, tenant, ticket = unpack(place)
    enline(id, ticket, model, version, lane, tenant)
    wake(model, version, lane)
  end
end
local PARKED_MS = 5000
for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', root .. ':parked', '-inf', whole(now_ms - PARKED_MS), 'LIMIT', 0, ARGV[1])) do
  unpark(tenant)
end
return #due
