"""The steps of an episode: callers, workers, bulk jobs, webhooks."""
