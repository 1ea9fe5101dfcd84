"""Bulk jobs: a stored file of many lines, run as jobs, with stored results. Records, steps and storage."""
