"""Attacks and abuse (docs/explanation/security.md): over the wire, by inputs, by callers, in the queue."""
