"""Models as the queue knows them: worker registry, rollout plans, catalog, version routing."""
