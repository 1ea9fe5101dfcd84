"""Holds one gateway process's state: waits for jobs, event streams, background loops, refusal of new jobs."""
