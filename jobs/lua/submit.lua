-- Accept jobs, each under its ticket.
-- ARGV  gateway that waits for new jobs ('' = none), idempotency_ttl_s, own_cap, own_ttl_s, max_jobs, max_bytes; then per job 13 words:
--       id, model, version, lane, tenant, deadline_ms, kind, input, parameters, metadata, idempotency key, digest, v
-- gives per job {how, id, created_us}; how = 'new'
--                                      | 'replayed'  the key made this job before; created_us 0 where it is kept no more
--                                      | 'mismatch'  the key made a job of another request
--                                      | 'full'      too many jobs or bytes of this model are open; then: jobs, bytes
-- Safe to send again: an id that is there already is answered as 'new' and left as it is.
local gateway, idempotency_ttl_s, own_cap, own_ttl_s = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local last = redis.pcall('GET', root .. ':clock')
local clock = type(last) == 'string' and tonumber(last) or 0
if clock > now_us + 86400 * 1000000 then clock = 0 end  -- nobody's clock was that far ahead: it is junk
local ticket = math.max(now_us, clock + 1)
local max_jobs, max_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local answers = {}

-- Bulk leaves a tenth of the room to interactive jobs, so that no night's work locks the door for the day.
local function full(model, lane, input)
  local load = redis.call('HMGET', root .. ':load', model .. ':jobs', model .. ':bytes')
  local own = weighed[model] or {0, 0}  -- of this very script
  local jobs, bytes = (tonumber(load[1]) or 0) + own[1], (tonumber(load[2]) or 0) + own[2]
  local share = lane == 'bulk' and 0.9 or 1
  if jobs + 1 <= max_jobs * share and bytes + #input <= max_bytes * share then return nil end
  return {'full', tostring(jobs), tostring(bytes)}
end

local function earlier(tenant, key, digest)
  if key == '' then return nil end
  local made = redis.call('GET', root .. ':idem:' .. tenant .. ':' .. key)
  if not made then return nil end
  local id, its_digest = string.match(made, '^(%S+) (%S*)$')
  return {its_digest == digest and 'replayed' or 'mismatch', id, redis.call('HGET', job_key(id), 'created') or '0'}
end

local function accept(at)
  local id, model, version, lane, tenant, deadline_ms, kind, input, parameters, metadata, key, digest, v =
    unpack(ARGV, at, at + 12)
  local known = redis.call('HGET', job_key(id), 'created')
  if known then return {'new', id, known} end
  local answer = earlier(tenant, key, digest)
  answer = answer or full(model, lane, input)
  if answer then return answer end
  local created, deadline = whole(ticket), whole(now_ms + deadline_ms)
  ticket = ticket + 1
  redis.call('HSET', job_key(id), 'v', v, 'state', 'queued', 'model', model, 'version', version, 'lane', lane,
    'tenant', tenant, 'created', created, 'deadline', deadline, 'attempts', 0, 'kind', kind, 'input', input,
    'size', #input, 'parameters', parameters, 'metadata', metadata)
  enline(id, created, model, version, lane, tenant)
  redis.call('ZADD', root .. ':deadlines', deadline, id)
  redis.call('HINCRBY', root .. ':counts', 'submitted:' .. model, 1)
  weigh(model, 1, #input)
  local own = root .. ':own:' .. tenant
  redis.call('ZADD', own, created, id)
  redis.call('ZREMRANGEBYRANK', own, 0, -own_cap - 1)
  redis.call('EXPIRE', own, own_ttl_s)
  if key ~= '' then
    redis.call('SET', root .. ':idem:' .. tenant .. ':' .. key, id .. ' ' .. digest, 'EX', idempotency_ttl_s)
  end
  wake(model, version)
  return {'new', id, created}
end

for at = 7, #ARGV, 13 do
  local answer = accept(at)
  if gateway ~= '' and answer[1] == 'new' then watch(answer[2], gateway) end
  answers[#answers + 1] = answer
end
redis.call('SET', root .. ':clock', whole(ticket - 1))
close()
return answers
