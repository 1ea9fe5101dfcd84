"""Delivers webhooks: `sender` makes and settles an attempt; `guarded_client` connects to checked addresses only."""
