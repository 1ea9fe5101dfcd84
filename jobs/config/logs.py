"""Sets up the log of a process: one line a message in UTC, as text or as JSON, with fields of its own.

A message gets fields by `log.info("…", extra=fields({"job": job_id}))`.
"""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson

from jobs.config import environment

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
AUDIT: Final = "jitney.audit"  # name of the logger whose lines can be told apart
_FIELDS: Final = "jitney_fields"  # attribute of a record


def set_up(part: str, level: str, log_format: LogFormat) -> None:
    """Log to standard error. `part`: the kind of process, in each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(part) if log_format == "json" else TextFormatter(part))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def format_of(env: Mapping[str, str]) -> LogFormat:
    """Return the format that the environment asks for, where no settings are read."""
    return "json" if environment.read(env, "LOG_FORMAT") == "json" else "text"


def json_line(part: str, level: str, message: str, details: Mapping[str, Any] | None = None) -> str:
    """Return a line of a log as JSON, with the time of now."""
    record = logging.makeLogRecord({"msg": message})
    return _json(record.created, part, level, message, details or {})


def fields(values: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the argument `extra` for a message with these fields. Fields that are None are left out."""
    return {_FIELDS: values}


class TextFormatter(logging.Formatter):
    """`2026-01-01T12:00:00.000Z worker INFO message name=value …`; before a message of AUDIT stands `audit`."""

    def __init__(self, part: str) -> None:
        super().__init__(f"%(asctime)s {part} %(levelname)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (of logging)
        """Return the time in UTC with ms."""
        del datefmt
        return _format_time(record.created)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (of logging)
        """Return the line, on one line, with the fields behind the message."""
        found = _fields_of(record)
        if record.name == AUDIT:
            record.message = f"audit {record.message}"
        line = super().formatMessage(record)
        pairs = [f"{name}={_quote(value)}" for name, value in found.items() if value is not None]
        return " ".join([line, *pairs])


class JsonFormatter(logging.Formatter):
    """A JSON object: `time`, `part`, `level`, `message`, fields, `error` with a traceback, and `audit` for AUDIT."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        details = dict(_fields_of(record))
        if record.name == AUDIT:
            details["audit"] = True
        if record.exc_info:
            details["error"] = self.formatException(record.exc_info)
        return _json(record.created, self._part, record.levelname.lower(), record.getMessage(), details)


def _json(at_s: float, part: str, level: str, message: str, details: Mapping[str, Any]) -> str:
    line = {"time": _format_time(at_s), "part": part, "level": level, "message": message}
    line |= {name: value for name, value in details.items() if value is not None}
    return orjson.dumps(line, default=str).decode()


def _fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    return getattr(record, _FIELDS, None) or {}


def _format_time(at_s: float) -> str:
    """Format seconds since the epoch in UTC with ms."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at_s))}.{int(at_s * 1000) % 1000:03d}Z"


def _quote(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if text.isprintable() and " " not in text and '"' not in text else orjson.dumps(text).decode()
