"""Bulk jobs on a gateway and a background process; the test plays the worker."""
