"""`jitney models` as an operator types it; the doctor on real networks, on every operator, and its page."""
