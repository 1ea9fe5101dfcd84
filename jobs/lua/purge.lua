-- Forget dead letters: those named or, where none is, those that have been kept long enough, and those for which there is no
-- room any more.
-- ARGV  limit (letters that go at most), how long what has ended is kept; then ids
-- gives how many went
-- with events, lines, outbox, ends
local limit, ends, gone = tonumber(ARGV[1]), ends_at(2), 0
for at = 6, #ARGV do
  local size, tenant = unpack(facts_of(ARGV[at], 'size', 'tenant'))
  if purge(letter(ARGV[at], size, tenant), ends.ttl_ms) then gone = gone + 1 end
end
if #ARGV < 6 then
  local latest = whole(now_ms - ends.dead_ttl_ms)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', root .. ':dead', '-inf', latest, 'LIMIT', 0, limit)) do
    purge(member, ends.ttl_ms)
    gone = gone + 1
  end
  gone = gone + make_room(ends, limit - gone)
end
return gone
