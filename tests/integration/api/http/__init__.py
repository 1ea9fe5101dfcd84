"""HTTP connections, request bodies and their budgets."""
