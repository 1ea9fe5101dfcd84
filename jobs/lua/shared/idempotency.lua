-- Idempotency keys: which job a key created, and for which request (`with idempotency`).
-- A record holds '<id> <digest of the request>'. The jobs of one request share a hash, in which each has its place.
local records_of_many = {}  -- record of a request of many jobs → place, value, place, value …; ttl_s

-- Return the key of an idempotency record and, for '<key> <place>' of a request of many jobs, the field in it.
local function idempotency_record(tenant, key)
  local shared, place = string.match(key, '^(%S+) (%d+)$')
  if shared then return root .. ':idempotency_many:' .. tenant .. ':' .. shared, place end
  return root .. ':idempotency:' .. tenant .. ':' .. key
end

-- Return the id of the job that a key created, and whether it was for the same request; nil for a new key.
local function find_by_key(tenant, key, digest)
  local record, place = idempotency_record(tenant, key)
  local value
  if place then value = redis.call('HGET', record, place) else value = redis.call('GET', record) end
  if not value then return nil end
  local id, known_digest = string.match(value, '^(%S+) (%S*)$')
  return id, known_digest == digest
end

-- Record which job an idempotency key created.
local function remember_key(tenant, key, id, digest, ttl_s)
  local record, place = idempotency_record(tenant, key)
  if place then
    records_of_many[record] = records_of_many[record] or {ttl_s = 0}
    records_of_many[record].ttl_s = math.max(ttl_s, records_of_many[record].ttl_s)
    table.insert(records_of_many[record], place)
    table.insert(records_of_many[record], id .. ' ' .. digest)
  else
    redis.call('SET', record, id .. ' ' .. digest, 'EX', ttl_s)
  end
end

local function write_records_of_many()
  for record, values in pairs(records_of_many) do
    call_in_chunks('HSET', record, values)
    redis.call('EXPIRE', record, math.max(values.ttl_s, redis.call('TTL', record)))
  end
end
