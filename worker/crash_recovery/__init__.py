"""Records executing jobs on disk and recovers a dead worker's jobs."""
