"""Delivers webhooks: threads of rq call `sender`, which makes an attempt and settles it."""
