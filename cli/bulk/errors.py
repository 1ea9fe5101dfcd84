"""What goes wrong with a run as a whole, and what goes wrong with one line of it.

CannotRun   nothing was begun, or it can not go on; what is written stays, and the same command goes on from there
BadItem     this line alone; it is written down with its code, and the others go on
"""

from typing import Final

# Codes that a run gives beside those of docs/api.md; docs/bulk-run.md lists them.
UNREADABLE: Final = "unreadable_input"
MALFORMED: Final = "malformed_line"
DUPLICATE: Final = "duplicate_id"
TOO_LARGE: Final = "body_too_large"


class CannotRun(Exception):
    """The message is for the person at the terminal: what, where, and what is allowed."""


class BadItem(Exception):
    """One line can not be sent; `code` is stable, the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message
