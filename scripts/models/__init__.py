"""`jitney models`: what an operator asks about model files before they are served. Needs no queue."""
