"""Redis client (connections, scripts, keys, subscriptions, durability checks), and helpers for asyncio tasks."""
