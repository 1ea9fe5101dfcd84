"""Renews leases and registers the worker with the queue."""
