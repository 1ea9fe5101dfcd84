-- Read a bulk job's oldest outcomes, up to a count and a byte limit, but at least one if there is any.
-- ARGV     bulk, count, bytes (of all of them together)
-- returns  the outcomes
-- with events, free_slots, queues, outbox, outputs, completion, bulk
local key, outcomes, bytes = root .. ':bulk_outcomes:' .. ARGV[1], {}, 0
for at = 0, ARGV[2] - 1 do
  local outcome = redis.call('LINDEX', key, at)
  bytes = bytes + (outcome and #outcome or 0)
  if not outcome or (at > 0 and bytes > tonumber(ARGV[3])) then break end
  outcomes[#outcomes + 1] = outcome
end
return outcomes
