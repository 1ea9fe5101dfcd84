"""Unit tests of a worker: batches, pending items, quotas, threads, desired versions."""
