"""Webhooks in Redis: outbox, delivery log, signing secrets."""
