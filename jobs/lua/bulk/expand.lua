-- Record how many lines of a bulk job have become jobs, and end lines that do not run.
-- ARGV     bulk, token, lease_ms, before (lines expanded so far), expanded (lines expanded now), line and offset to
--          read on from, bytes (inputs of the new jobs), retention (4 arguments); then per line that does not run: id,
--          state, body, custom_id (JSON: a string or null). If such a line is an open job, the job ends.
-- returns  1 = recorded | 0 = the lease is lost, or these lines were recorded before
-- with events, free_slots, queues, outbox, outputs, completion, bulk
local bulk, retention = ARGV[1], retention_at(9)
if not renew_lease(bulk, ARGV[2], ARGV[3]) then return 0 end
local expanded = redis.call('HGET', bulk_key(bulk), 'expanded')
if expanded ~= ARGV[4] then return expanded == ARGV[5] and 1 or 0 end
redis.call('HSET', bulk_key(bulk), 'expanded', ARGV[5], 'line', ARGV[6], 'offset', ARGV[7])
redis.call('HINCRBY', bulk_key(bulk), 'bytes', ARGV[8])
clear_faults(bulk)
for at = 13, #ARGV, 4 do
  local id, state, body = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local words, facts = unpack(job_fields(id, 'state', 'facts'))
  local job_state = state_name(words)
  if unpack_facts(facts).bulk and (job_state == 'queued' or job_state == 'running') then
    if job_state == 'queued' then dequeue(id) else notify_dropped(id) end
    end_job(id, state, retention, body)
  else
    add_outcome(id, {id, cjson.decode(ARGV[at + 3]), state, body}, #body, false)
  end
end
commit()
return 1
