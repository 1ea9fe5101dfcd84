-- Read a job and, while it is open, register a gateway for its end. One step, so that no end is missed in between.
-- ARGV     gateway, id
-- returns  the values of READ_FIELDS in jobs/store/codec.py
local values = read_job(ARGV[2])
add_watcher(ARGV[2], ARGV[1], false)
return values
