-- Return the reports of live processes, and remove the expired ones (see report_process).
-- ARGV     none
-- returns  the report of each live process
local MAX_RETURNED = 4000
local reports, fields = {}, redis.call('HGETALL', root)
for at = 1, #fields, 2 do
  local until_ms, report = string.match(fields[at + 1], '^(%d+) (.*)$')
  if not until_ms or tonumber(until_ms) <= now_ms then
    redis.call('HDEL', root, fields[at])
  elseif #reports < MAX_RETURNED then
    reports[#reports + 1] = report
  end
end
return reports
