"""From a request to submitted jobs: one, many, or a dead letter sent again."""
