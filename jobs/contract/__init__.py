"""What a job is, for callers, gateways and workers alike; knows no Redis."""
