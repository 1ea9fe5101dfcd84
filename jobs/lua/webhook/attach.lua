-- Give a job a webhook after it was accepted: while it is open in place of the one it has; once it has ended, its end is
-- told at once. The same URL with the same headers again is the same delivery.
-- ARGV  id, tenant, webhook (origin, URL, wanted ends, headers; see outbox.lua)
-- gives {'open', ''} | {'posted', delivery} | {'unwanted', ''} it ended otherwise | {'many', ''} | {'unknown', ''}
-- with events, outbox
local id, tenant, webhook = ARGV[1], ARGV[2], ARGV[3]
local job = facts_of(id, 'state', 'tenant')
if not job[1] or job[2] ~= tenant then return {'unknown', ''} end
if job[1] == 'queued' or job[1] == 'running' then
  redis.call('HSET', job_key(id), 'webhook', webhook)
  return {'open', ''}
end
local _, url, _, headers = read_webhook(webhook)
if not delivery_of(id, url, headers) then return {'many', ''} end
local delivery = post(id, job[1], webhook)
if not delivery then return {'unwanted', ''} end
redis.call('PUBLISH', 'jitney:outbox', '')
return {'posted', delivery}
