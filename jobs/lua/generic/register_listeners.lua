-- Note for a while that somebody listens to all jobs of these tenants, and give all tenants that are listened to.
-- ARGV  ttl_ms, then tenants, if any
-- gives their names
local ttl_ms = tonumber(ARGV[1])
for at = 2, #ARGV do redis.call('ZADD', root, whole(now_ms + ttl_ms), ARGV[at]) end
redis.call('ZREMRANGEBYSCORE', root, '-inf', whole(now_ms))
redis.call('PEXPIRE', root, ttl_ms * 2)
return redis.call('ZRANGE', root, 0, -1)
