"""Submission of jobs: parsing requests, submitting one or many jobs, replaying dead letters."""
