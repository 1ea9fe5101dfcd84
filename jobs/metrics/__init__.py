"""Metrics kept in Redis (event counters, histograms, CPU time), Redis memory, and trimming of the process heap."""
