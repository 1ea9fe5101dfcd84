-- Remove dead letters: the named ones or, without names, the expired ones and those beyond the limits.
-- ARGV     limit (letters to remove without names), retention (4 arguments); then ids
-- returns  the number of removed letters
-- with events, free_slots, queues, outbox, outputs, completion
local limit, retention, removed = tonumber(ARGV[1]), retention_at(2), 0
local letters = dead_letter_functions(retention)
for at = 6, #ARGV do
  local route, size = parse_head(job_fields(ARGV[at], 'head')[1])
  if letters.remove(letters.member(ARGV[at], size, route and route.tenant)) then removed = removed + 1 end
end
if #ARGV < 6 then
  local latest = int_text(now_ms - retention.dead_ttl_ms)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', root .. ':dead_letters', '-inf', latest, 'LIMIT', 0, limit)) do
    letters.remove(member)
    removed = removed + 1
  end
  removed = removed + letters.make_room(limit - removed)
end
return removed
