"""Prometheus metrics of `/metrics`."""
