"""Versions of a model that are replaced while callers use it."""
