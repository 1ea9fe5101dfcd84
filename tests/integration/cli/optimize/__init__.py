"""`jitney models optimize` as a process: forms of int8, interruptions, its page."""
