-- Record the model versions that a worker serves, each with its metadata and the time it was last seen.
-- ARGV     per version: '<name> <version>', its metadata (a JSON object that is not empty)
-- returns  nothing
local seen = int_text(math.floor(now_ms / 1000))
for at = 1, #ARGV, 2 do
  redis.call('HSET', root, ARGV[at], string.sub(ARGV[at + 1], 1, -2) .. ',"seen":' .. seen .. '}')
end
