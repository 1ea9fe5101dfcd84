"""Connections to the queue server: pipelining, pub/sub, error kinds, durability."""
