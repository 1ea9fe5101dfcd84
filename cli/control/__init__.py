"""Verbs that look at and steer jobs, queues, workers, dead letters and webhooks, through a gateway."""
