"""Delivers webhooks: `dispatcher` hands what is due to rq, whose threads call `sender`, which settles it."""
