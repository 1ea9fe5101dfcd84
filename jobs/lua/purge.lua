-- Forget dead letters: those named or, where none is, those that have been kept long enough.
-- ARGV  ttl_ms, older_than_ms; then ids
-- gives how many went
-- with events, lines, outbox, ends
local gone, named = 0, {}
for at = 3, #ARGV do named[ARGV[at]] = true end
local latest = #ARGV > 2 and '+inf' or whole(now_ms - ARGV[2])
for _, member in ipairs(redis.call('ZRANGEBYSCORE', root .. ':dead', '-inf', latest)) do
  if #ARGV == 2 or named[string.match(member, '^%S+')] then
    purge(member, ARGV[1])
    gone = gone + 1
  end
end
return gone
