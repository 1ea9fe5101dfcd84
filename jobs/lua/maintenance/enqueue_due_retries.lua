-- Return jobs whose retry is due to their queues, and unpark tenants that have been parked for 5 seconds.
-- ARGV     limit (jobs, and tenants)
-- returns  the number of due retries
-- The next claim parks such a tenant again if its limit of running jobs has not changed.
-- with events, free_slots, queues
local PARKED_MS = 5000
local due = redis.call('ZRANGEBYSCORE', root .. ':retries', '-inf', now_ms, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  redis.call('ZREM', root .. ':retries', id)
  local model, version, lane, tenant, sequence = place_of(id)
  if model and state_name(job_fields(id, 'state')[1]) == 'queued' then
    enqueue(id, sequence, model, version, lane, tenant)
    wake_worker(model, version, lane)
  end
end
local parked_before = int_text(now_ms - PARKED_MS)
for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', root .. ':parked', '-inf', parked_before, 'LIMIT', 0, ARGV[1])) do
  unpark(tenant)
end
return #due
