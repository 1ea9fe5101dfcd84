-- End jobs whose deadline has passed, whether they wait or run, and whether or not a worker lives.
-- ARGV  limit, and how long what has ended is kept
-- gives how many ended
-- with events, queues, outbox, completion
local expired, ends = 0, ends_at(2)
local due = redis.call('ZRANGEBYSCORE', root .. ':deadlines', '-inf', now_ms, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local state = facts_of(id, 'state')[1]
  if state == 'queued' then unline(id) end
  if state == 'running' then dismiss(id) end
  if state == 'queued' or state == 'running' then
    conclude(id, 'expired', ends, 'error', EXPIRED)
    expired = expired + 1
  else
    redis.call('ZREM', root .. ':deadlines', id)
  end
end
close()
return expired
