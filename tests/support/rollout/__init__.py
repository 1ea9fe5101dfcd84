"""Callers and steps of rollouts under load."""
