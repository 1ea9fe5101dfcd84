-- Cancel jobs: a queued one never runs, the result of a running one is refused and its worker is notified.
-- ARGV     tenant ('' = any), state that a job must have ('' = queued or running), retention (4 arguments); then ids
-- returns  per job 'canceled' | 'final' | 'other' (it is open, but not in this state) | 'unknown' (also for another
--          tenant's job)
-- with events, free_slots, queues, outbox, outputs, completion
local tenant, wanted, retention = ARGV[1], ARGV[2], retention_at(3)
local CANCELED = '{"code":"canceled","message":"the job was canceled","status":409}'

local function cancel(id)
  local words, head = unpack(job_fields(id, 'state', 'head'))
  local state, route = state_name(words), parse_head(head)
  if not state or not route or (tenant ~= '' and route.tenant ~= tenant) then return 'unknown' end
  if state ~= 'queued' and state ~= 'running' then return 'final' end
  if wanted ~= '' and state ~= wanted then return 'other' end
  if state == 'queued' then dequeue(id) else notify_dropped(id) end
  end_job(id, 'canceled', retention, CANCELED)
  return 'canceled'
end

local results = {}
for at = 7, #ARGV do results[#results + 1] = cancel(ARGV[at]) end
commit()
return results
