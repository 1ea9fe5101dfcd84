"""Delivers webhooks: `dispatcher` enqueues due attempts to rq, whose threads call `sender`, which settles them."""
