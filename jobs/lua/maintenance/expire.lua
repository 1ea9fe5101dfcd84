-- End queued and running jobs whose deadline has passed.
-- ARGV     limit (jobs), retention (4 arguments)
-- returns  the number of expired jobs
-- with events, free_slots, queues, outbox, outputs, completion
local expired, retention = 0, retention_at(2)
local due = redis.call('ZRANGEBYSCORE', root .. ':deadlines', '-inf', now_ms, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local state = job_fields(id, 'state')[1]
  if state == 'queued' then dequeue(id) end
  if state == 'running' then notify_dropped(id) end
  if state == 'queued' or state == 'running' then
    end_job(id, 'expired', retention, 'error', EXPIRED)
    expired = expired + 1
  else
    redis.call('ZREM', root .. ':deadlines', id)
  end
end
commit()
return expired
