"""Versions of a model are replaced under load, and nobody loses a job by it."""
