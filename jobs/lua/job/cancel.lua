-- Cancel a job: a queued one never runs, the result of a running one is refused and its worker is notified.
-- ARGV     id, tenant, retention (4 arguments)
-- returns  'canceled' | 'final' | 'unknown' (also for another tenant's job)
-- with events, free_slots, queues, outbox, outputs, completion
local id = ARGV[1]
local words, head = unpack(job_fields(id, 'state', 'head'))
local state, route = state_name(words), parse_head(head)
if not state or not route or route.tenant ~= ARGV[2] then return 'unknown' end
if state ~= 'queued' and state ~= 'running' then return 'final' end
if state == 'queued' then dequeue(id) else notify_dropped(id) end
end_job(id, 'canceled', retention_at(3), '{"code":"canceled","message":"the job was canceled","status":409}')
commit()
return 'canceled'
