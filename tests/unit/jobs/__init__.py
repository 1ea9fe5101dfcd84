"""Unit tests of contracts, readers and settings of jobs."""
