"""Webhooks in Redis: what is to be delivered, what was, and what it is signed with."""
