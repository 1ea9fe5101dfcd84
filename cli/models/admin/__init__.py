"""Versions of models, changed and listed through a gateway."""
