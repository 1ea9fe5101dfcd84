"""Commands that list and control jobs, queues, workers, dead letters and webhooks, through a gateway."""
