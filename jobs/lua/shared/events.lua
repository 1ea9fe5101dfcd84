-- What is told of a job before it ends: for scripts that say `with events`.
-- What a gateway reads of a job (codec.py has the same list).
local READ_FIELDS = {'v', 'state', 'model', 'version', 'lane', 'tenant', 'created', 'attempts', 'started', 'finished',
  'metadata', 'output', 'error', 'stages', 'batch_size', 'output_bytes'}

-- Tell that a job came into another state: `followers` are gateways that follow it, and read it then; `log` is its tenant, where
-- somebody listens to all of that.
local function changed(id, state, followers, log)
  for gateway in string.gmatch(followers or '', '[^ ]+') do
    redis.call('PUBLISH', 'jitney:gateway:' .. gateway, cmsgpack.pack({{id}}))
  end
  if not log then return end
  redis.call('XADD', root .. ':job_events:' .. log, 'MAXLEN', '~', 10000, '*', 'id', id, 'status', state)
  redis.call('EXPIRE', root .. ':job_events:' .. log, 3600)
  redis.call('PUBLISH', 'jitney:events', log)
end
