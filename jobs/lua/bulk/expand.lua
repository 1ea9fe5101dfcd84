-- Note how far a bulk's lines are taken: those up to there are jobs, or have an outcome as they stand here.
-- ARGV  bulk, flight, flight_ms, before (lines taken so far), expanded (from now on), line, offset (where to read on), bytes (of
--       the inputs of those that became jobs), how long what has ended is kept (4 words); then per line that ends without a
--       run: id, state, body, custom_id (JSON: a string, or null). One that is a job already ends with it.
-- gives 1 = written | 0 = this flight may not write, or another was faster
-- with events, queues, outbox, completion, bulk
local bulk, ends = ARGV[1], ends_at(9)
if not flies(bulk, ARGV[2], ARGV[3]) then return 0 end
local taken = redis.call('HGET', bulk_key(bulk), 'expanded')
if taken ~= ARGV[4] then return taken == ARGV[5] and 1 or 0 end
redis.call('HSET', bulk_key(bulk), 'expanded', ARGV[5], 'line', ARGV[6], 'offset', ARGV[7])
redis.call('HINCRBY', bulk_key(bulk), 'bytes', ARGV[8])
went_well(bulk)
for at = 13, #ARGV, 4 do
  local id, state, body = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local job = facts_of(id, 'state', 'bulk')
  if job[2] and (job[1] == 'queued' or job[1] == 'running') then
    if job[1] == 'queued' then unline(id) else dismiss(id) end
    conclude(id, state, ends, 'error', body)
  else
    line_ended(id, {id, cjson.decode(ARGV[at + 3]), state, body}, #body, false)
  end
end
close()
return 1
