"""Runs bulk jobs in steps: validates the input, expands lines into jobs, collects results, ends the bulk job."""
