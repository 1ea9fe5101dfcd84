"""Redis client: connections, Lua scripts, subscriptions, error classification."""
