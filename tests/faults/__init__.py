"""Faults of every part of a cluster: each is healed, and every promise is checked."""
