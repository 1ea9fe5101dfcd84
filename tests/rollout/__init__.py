"""Versions of a model are replaced under load without losing a job."""
