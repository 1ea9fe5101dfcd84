-- Record for ttl_ms that a client listens to the job events of these tenants; return all tenants with listeners.
-- ARGV     ttl_ms, then tenants, if any
-- returns  the names of all tenants with listeners
local ttl_ms = tonumber(ARGV[1])
for at = 2, #ARGV do redis.call('ZADD', root, int_text(now_ms + ttl_ms), ARGV[at]) end
redis.call('ZREMRANGEBYSCORE', root, '-inf', int_text(now_ms))
redis.call('PEXPIRE', root, ttl_ms * 2)
return redis.call('ZRANGE', root, 0, -1)
