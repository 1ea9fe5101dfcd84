"""Measurements of CPU time, memory, waiting time and batch caps."""
