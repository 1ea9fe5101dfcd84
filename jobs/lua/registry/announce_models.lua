-- Record the model versions that a worker serves, each with its metadata and the time it was last seen.
-- ARGV  per version: '<name> <version>', its card (a JSON object that is not empty)
-- gives nothing
local seen = whole(math.floor(now_ms / 1000))
for at = 1, #ARGV, 2 do
  redis.call('HSET', root, ARGV[at], string.sub(ARGV[at + 1], 1, -2) .. ',"seen":' .. seen .. '}')
end
