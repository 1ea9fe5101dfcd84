"""Loads and unloads model versions so that a worker runs the desired ones."""
