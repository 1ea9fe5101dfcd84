-- Read jobs and, while they are open, register a gateway for their ends. As read_and_wait, for many jobs.
-- ARGV     gateway, then ids
-- returns  for each id the values of READ_FIELDS in jobs/store/codec.py
local jobs = {}
for at = 2, #ARGV do
  jobs[#jobs + 1] = read_job(ARGV[at])
  add_watcher(ARGV[at], ARGV[1], false)
end
return jobs
