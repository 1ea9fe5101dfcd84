"""Optimized models: faster ones are accepted, differing ones refused; on files and served."""
