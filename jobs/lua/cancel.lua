-- Cancel a job: a waiting one never runs, the result of a running one is refused when it comes.
-- ARGV  id, tenant, ttl_ms
-- gives 'canceled' | 'final' | 'unknown' (also another tenant's)
local id = ARGV[1]
local job = facts_of(id, 'state', 'tenant', 'model', 'version', 'lane')
if not job[1] or job[2] ~= ARGV[2] then return 'unknown' end
if job[1] ~= 'queued' and job[1] ~= 'running' then return 'final' end
if job[1] == 'queued' then unline(id, job[3], job[4], job[5], job[2]) end
conclude(id, 'canceled', ARGV[3], 'error', '{"code":"canceled","message":"the job was canceled","status":409}')
notify()
return 'canceled'
