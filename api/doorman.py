"""Decides who may come in, before anything of a request is looked at but its line and head: by path, key and role.

A route that is not named here needs a key: a new one can not be left open by forgetting it.
"""

from typing import Final

from api.callers import Caller, Callers
from api.receiving import Request
from jobs.errors import Refused

PUBLIC: Final = frozenset({"/", "/healthz", "/readyz"})
ADMIN: Final = frozenset({"/metrics"})


class Doorman:
    """Stands before all doors."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    def admit(self, request: Request) -> Caller | None:
        """Give who calls, None where nobody needs to know; raises Refused, NotNow."""
        if request.path in PUBLIC:
            return None
        caller = self._callers.find(request)
        if request.path in ADMIN and not caller.is_admin:
            raise Refused("forbidden", f"{request.path} needs a key with the role admin, and this one has not")
        return caller
