"""`jitney models import`: a network from elsewhere as a complete model folder; a module a source, behind source.py."""
