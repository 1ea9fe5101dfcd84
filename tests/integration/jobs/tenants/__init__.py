"""Quotas and the fair share of tenants in the store."""
