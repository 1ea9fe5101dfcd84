"""Tenants that abuse a whole service, and what it costs a calm one."""
