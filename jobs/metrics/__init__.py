"""Metrics kept in Redis: event counters, histograms, CPU time."""
