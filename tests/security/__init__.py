"""Attacks and abuse (docs/security.md): over the wire, by inputs, by callers, in the queue."""
