"""Bulks: jobs of many lines, from a stored file to stored results. Records, steps and storage; no HTTP, and no rq."""
