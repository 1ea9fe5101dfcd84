"""Commands as processes, without a whole service."""
