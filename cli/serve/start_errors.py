"""Errors that keep processes from starting, invalid counts of processes, and messages to the operator."""

import os
import sys
from contextlib import suppress

from jobs.config import logs

EX_CONFIG = 78  # from sysexits.h: a child with invalid settings exits with it, and is not restarted


class CannotStart(Exception):
    """A process cannot be started; the message is for the operator."""

    exit_code = 1


class BadSetting(CannotStart):
    """A variable or an option has an invalid value, so that a retry cannot succeed."""

    exit_code = EX_CONFIG


def parse_count(name: str, text: str, kind: str, limit: int) -> int:
    """Return a number of processes of a kind. Raises BadSetting. `name`: the variable or option, for messages."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= limit:
        raise BadSetting(f"{name}{text} is not a number of {kind} processes: use 1 to {limit}")
    return int(text)


def print_line(text: str) -> None:
    """Write a message for the operator, in the format of the log."""
    line = f"jitney: {text}" if logs.format_of(os.environ) == "text" else logs.json_line("supervisor", "info", text)
    with suppress(OSError):  # a closed terminal must not prevent the shutdown
        print(line, file=sys.stderr, flush=True)
