"""`jitney models optimize` on files, in this process."""
