"""Errors of `jitney bulk` and their codes.

CannotRun   ends the run; written results stay, and the same command resumes the run
BadItem     fails one line, whose row has the code; the run continues
"""

from typing import Final

# Codes in addition to those of docs/reference/errors.md; docs/how-to/bulk-run.md lists them.
UNREADABLE: Final = "unreadable_input"
MALFORMED: Final = "malformed_line"
DUPLICATE: Final = "duplicate_id"
TOO_LARGE: Final = "body_too_large"


class CannotRun(Exception):
    """The run cannot start or continue. The message is for the terminal: cause, place, and what is allowed."""


class BadItem(Exception):
    """A line cannot be sent. `code` is stable, the message is not."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message
