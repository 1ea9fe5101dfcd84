-- Erase a job that has ended: its record, output, dead letter, deliveries, and its places in lists.
-- ARGV     id, tenant ('' = any), retention (4 arguments)
-- returns  'purged' | 'open' (it has not ended) | 'unknown' (also for another tenant's job)
-- Bytes of its output are no longer counted. A delivery that is waiting or under way is dropped.
-- with events, free_slots, queues, outbox, outputs, completion, delivery_log
local id, tenant, retention = ARGV[1], ARGV[2], retention_at(3)
local words, head, facts, bytes, chunks, kept_as =
  unpack(job_fields(id, 'state', 'head', 'facts', 'output_bytes', 'output_chunks', 'kept_as'), 1, 6)
local state, attempt = parse_state(words)
local route, size, _, created = parse_head(head)
if not state or not route or (tenant ~= '' and route.tenant ~= tenant) then return 'unknown' end
if state == 'queued' or state == 'running' then return 'open' end

-- Stop counting the output. A small one of a tenant with a limit of bytes was counted with others that end then.
local function uncount_output()
  local member, ended_us = kept_as, tonumber(string.match(words, '^%l+ %d+ %S+ %S+ (%d+)'))
  if not member and state == 'succeeded' and ended_us and unpack_facts(facts).quota == 'bytes' then
    local width = math.max(1, math.ceil(retention.ttl_ms / 64))
    local end_ms = math.floor(ended_us / 1000) + retention.ttl_ms
    member = int_text(math.ceil(end_ms / width) * width) .. ' ' .. route.tenant
  end
  if member and redis.call('HEXISTS', root .. ':kept_output_bytes', member) == 1 then
    change_kept(member, 0 - (bytes or redis.call('HSTRLEN', job_key(id), 'body')))
  end
end

local function drop_delivery(delivery)
  local endpoint, owner, delivery_state =
    unpack(redis.call('HMGET', delivery_key(delivery), 'endpoint', 'tenant', 'state'))
  if not endpoint or not owner then return end
  redis.call('ZREM', outbox_key(endpoint), delivery)
  redis.call('ZREM', deliveries_running_key(endpoint), delivery)
  for _, lane in ipairs(LANES) do redis.call('ZREM', tenant_running_key(lane, owner), delivery) end
  redis.call('ZREM', open_deliveries_key(owner), delivery)
  redis.call('ZREM', root .. ':ended_deliveries:' .. owner, delivery)
  redis.call('ZREM', root .. ':deliveries:' .. owner, delivery)
  redis.call('DEL', delivery_key(delivery))
  if delivery_state == 'waiting' then redis.call('HINCRBY', root .. ':counts', 'webhooks:ended:purged', 1) end
  reschedule(endpoint)
end

uncount_output()
if chunks then drop_chunks(id, attempt, tonumber(chunks)) end
local letters = dead_letter_functions(retention)
letters.remove(letters.member(id, size, route.tenant))
for number = 1, MAX_DELIVERIES_PER_JOB do drop_delivery(id .. '-' .. number) end
redis.call('ZREM', root .. ':tenant_jobs:' .. route.tenant, id)
local code = string.match(words, '(%S+)$')
local listed = table.concat({id, state, code, route.model, route.version, route.lane}, ' ')
redis.call('ZREM', root .. ':unsuccessful:' .. route.tenant, listed)
redis.call('UNLINK', job_key(id), input_key(id))
return 'purged'
