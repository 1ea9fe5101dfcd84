"""Job contract shared by callers, gateways and workers: requests, jobs, errors, states. Independent of Redis."""
