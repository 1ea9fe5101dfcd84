-- List the running jobs of one page of the timers. Queued jobs have timers, too: their deadlines.
-- ARGV     min (score to begin at), skip (timers of this score that were read before), limit (timers), lease_ms (the
--          longest lease: timers beyond it are those of queued jobs)
-- returns  {timers read, score of the last one, timers of this score read so far, then per running job: id, head, rows}
-- with events
local first, skip, limit, lease_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local timers = redis.call('ZRANGEBYSCORE', root .. ':timers', first, int_text(now_ms + lease_ms), 'WITHSCORES',
  'LIMIT', skip, limit)
local answer = {#timers / 2, first, skip}
for at = 1, #timers, 2 do
  local id, score = timers[at], timers[at + 1]
  answer[2], answer[3] = score, score == answer[2] and answer[3] + 1 or 1
  local words, head = unpack(job_fields(id, 'state', 'head'))
  if state_name(words) == 'running' and head then
    local facts = unpack(job_fields(id, 'facts'))
    answer[#answer + 1], answer[#answer + 2] = id, head
    answer[#answer + 1] = int_text(rows_of(unpack_facts(facts)))
  end
end
return answer
