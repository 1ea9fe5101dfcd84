-- Cancel a job: a queued one never runs, the result of a running one is refused and its worker is notified.
-- ARGV     id, tenant, retention (4 arguments)
-- returns  'canceled' | 'final' | 'unknown' (also for another tenant's job)
-- with events, free_slots, queues, outbox, outputs, completion
local id = ARGV[1]
local job = job_fields(id, 'state', 'tenant')
if not job[1] or job[2] ~= ARGV[2] then return 'unknown' end
if job[1] ~= 'queued' and job[1] ~= 'running' then return 'final' end
if job[1] == 'queued' then dequeue(id) end
if job[1] == 'running' then notify_dropped(id) end
end_job(id, 'canceled', retention_at(3), 'error', '{"code":"canceled","message":"the job was canceled","status":409}')
commit()
return 'canceled'
