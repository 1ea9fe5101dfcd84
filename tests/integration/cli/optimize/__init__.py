"""`jitney models optimize` as a process or on a real network: forms of int8, interruptions, its page."""
