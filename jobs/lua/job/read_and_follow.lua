-- Read a job and, while it is open, register a gateway for each change of its state and for its end.
-- ARGV     gateway, id
-- returns  the values of READ_FIELDS in jobs/store/codec.py
local values = read_job(ARGV[2])
add_watcher(ARGV[2], ARGV[1], true)
return values
