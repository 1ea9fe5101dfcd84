"""Routes of jobs, dead letters, events, models, metrics and readiness."""
