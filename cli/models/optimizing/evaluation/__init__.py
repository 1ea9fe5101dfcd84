"""Compares an optimized version with the original: agreement of outputs, and speed."""
