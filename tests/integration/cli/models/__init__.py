"""`jitney models` as an operator types it, and the examples of its page."""
