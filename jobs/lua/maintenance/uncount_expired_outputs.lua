-- Stop counting outputs that have expired.
-- ARGV     limit
-- returns  number of groups of outputs
-- with outputs
local members = redis.call('ZRANGEBYSCORE', root .. ':kept_outputs', '-inf', int_text(now_ms), 'LIMIT', 0, ARGV[1])
for _, member in ipairs(members) do
  local bytes = tonumber(redis.call('HGET', root .. ':kept_output_bytes', member)) or 0
  change_kept(member, 0 - bytes)
  redis.call('ZREM', root .. ':kept_outputs', member)
end
return #members
