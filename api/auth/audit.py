"""Logs who changes what beside their own jobs: queues, workers, limits, dead letters, erased data, jobs of others.

Of one's own jobs, cancellations by filter are logged too.
"""

import logging

from fastapi import Request as HttpRequest

from api.auth.authentication import Caller
from jobs.config import logs

log = logging.getLogger(logs.AUDIT)


def log_change(http: HttpRequest, what: str, *args: object) -> None:
    """Log a change by the sender of a request. `what`: the text, in which `%` puts `args`."""
    caller: Caller = http.scope["caller"]
    who = f"key {caller.key_id}" if caller.key_id else "no key"
    log.info("%s of tenant %s: %s", who, caller.tenant, what % args)


def log_change_of_other(http: HttpRequest, tenant: str, what: str, *args: object) -> None:
    """Log a change of one record, if it belongs to another tenant than the sender's."""
    if tenant != http.scope["caller"].tenant:
        log_change(http, f"{what} of tenant %s", *args, tenant)
