"""Starts processes and keeps them running: the queue's server, gateways, workers, background work."""
