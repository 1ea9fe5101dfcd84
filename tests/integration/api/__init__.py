"""A gateway process on a real queue server; the test plays the worker."""
