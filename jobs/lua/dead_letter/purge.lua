-- Forget dead letters: those named or, where none is, those that have been kept long enough, and those for which there is no
-- room any more.
-- ARGV  limit (letters that go at most), how long what has ended is kept; then ids
-- gives how many went
-- with events, queues, outbox, completion
local limit, ends, gone = tonumber(ARGV[1]), ends_at(2), 0
local letters = dead_letters(ends)
for at = 6, #ARGV do
  local size, tenant = unpack(facts_of(ARGV[at], 'size', 'tenant'))
  if letters.forget(letters.member(ARGV[at], size, tenant)) then gone = gone + 1 end
end
if #ARGV < 6 then
  local latest = whole(now_ms - ends.dead_ttl_ms)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', root .. ':dead_letters', '-inf', latest, 'LIMIT', 0, limit)) do
    letters.forget(member)
    gone = gone + 1
  end
  gone = gone + letters.make_room(limit - gone)
end
return gone
