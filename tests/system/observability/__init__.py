"""Metrics, logs and traces of whole services, compared with what a test did."""
