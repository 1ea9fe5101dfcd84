"""The job store and what belongs to it, on each queue server that is supported."""
