-- Set a job's webhook after the job was accepted; if the job has ended, create the delivery at once.
-- ARGV     id, tenant, webhook ('<origin> <URL> <states …>' and headers, see parse_webhook)
-- returns  {'open', ''} = set, in place of any other | {'posted', delivery} | {'unwanted', ''} = the job ended in
--          another state
--          | {'many', ''} = the job has too many deliveries | {'unknown', ''}
-- The same URL with the same headers is the same delivery.
-- with events, outbox
local id, tenant, webhook = ARGV[1], ARGV[2], ARGV[3]
local words, head = unpack(job_fields(id, 'state', 'head'))
local state, route = state_name(words), parse_head(head)
if not state or not route or route.tenant ~= tenant then return {'unknown', ''} end
if state == 'queued' or state == 'running' then
  redis.call('HSET', job_key(id), 'webhook', webhook)
  return {'open', ''}
end
local _, url, _, headers = parse_webhook(webhook)
if not find_delivery(id, url, headers) then return {'many', ''} end
local delivery = deliver_end(id, state, webhook)
if not delivery then return {'unwanted', ''} end
redis.call('PUBLISH', 'jitney:outbox', '')
return {'posted', delivery}
