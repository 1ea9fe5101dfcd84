"""Spans of requests and jobs, exported by OpenTelemetry."""
