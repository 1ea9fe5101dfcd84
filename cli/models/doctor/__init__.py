"""`jitney models doctor`."""
