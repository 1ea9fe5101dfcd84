-- Cancel a job: a waiting one never runs; a running one's worker hears of it, and its result is refused when it comes.
-- ARGV  id, tenant, and how long what has ended is kept
-- gives 'canceled' | 'final' | 'unknown' (also another tenant's)
-- with events, queues, outbox, completion
local id = ARGV[1]
local job = facts_of(id, 'state', 'tenant')
if not job[1] or job[2] ~= ARGV[2] then return 'unknown' end
if job[1] ~= 'queued' and job[1] ~= 'running' then return 'final' end
if job[1] == 'queued' then unline(id) end
if job[1] == 'running' then dismiss(id) end
conclude(id, 'canceled', ends_at(3), 'error', '{"code":"canceled","message":"the job was canceled","status":409}')
close()
return 'canceled'
