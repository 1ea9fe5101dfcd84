"""Webhooks from a gateway and a background process to real receivers."""
