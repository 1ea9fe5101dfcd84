"""Measure a model: its latency by batch size, and whether batching changes its results."""
