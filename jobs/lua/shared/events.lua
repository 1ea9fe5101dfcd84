-- State changes of open jobs, for gateways and for clients that listen to a tenant's events (`with events`).
-- The fields of a job that a gateway reads, in the order of READ_FIELDS in jobs/store/codec.py.
local READ_FIELDS = {'v', 'state', 'model', 'version', 'lane', 'tenant', 'created', 'attempts', 'started', 'finished',
  'metadata', 'output', 'error', 'stages', 'batch_size', 'output_bytes'}

-- Publish that a job has entered a state. `followers`: gateways that follow this job, and read it then. `event_log`:
-- the job's tenant, if a client listens to all events of the tenant.
local function publish_state(id, state, followers, event_log)
  for gateway in string.gmatch(followers or '', '[^ ]+') do
    redis.call('PUBLISH', 'jitney:gateway:' .. gateway, cmsgpack.pack({{id}}))
  end
  if not event_log then return end
  redis.call('XADD', root .. ':job_events:' .. event_log, 'MAXLEN', '~', 10000, '*', 'id', id, 'status', state)
  redis.call('EXPIRE', root .. ':job_events:' .. event_log, 3600)
  redis.call('PUBLISH', 'jitney:events', event_log)
end
