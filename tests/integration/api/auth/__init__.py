"""API keys, rate limits, limits of single tenants, and the isolation of tenants."""
