"""Sets up the log of a process: one line a message in UTC, as text or as JSON, with fields of its own.

A message gets fields by `log.info("…", extra=fields({"job": job_id}))`.
"""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
_FIELDS: Final = "jitney_fields"  # attribute of a record


def set_up(part: str, level: str, log_format: LogFormat) -> None:
    """Log to standard error. `part`: the kind of process, in each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(part) if log_format == "json" else TextFormatter(part))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def fields(values: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the argument `extra` for a message with these fields. Fields that are None are left out."""
    return {_FIELDS: values}


class TextFormatter(logging.Formatter):
    """`2026-01-01T12:00:00.000Z worker INFO message name=value …`."""

    def __init__(self, part: str) -> None:
        super().__init__(f"%(asctime)s {part} %(levelname)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (of logging)
        """Return the time in UTC with ms."""
        del datefmt
        return _format_time(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (of logging)
        """Return the line, on one line, with the fields behind the message."""
        found = _fields_of(record)
        line = super().formatMessage(record)
        pairs = [f"{name}={_quote(value)}" for name, value in found.items() if value is not None]
        return " ".join([line, *pairs])


class JsonFormatter(logging.Formatter):
    """A JSON object: `time`, `part`, `level`, `message`, the fields, and `error` with a traceback."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": _format_time(record),
            "part": self._part,
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in _fields_of(record).items() if value is not None}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def _fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    return getattr(record, _FIELDS, None) or {}


def _format_time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _quote(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if text.isprintable() and " " not in text and '"' not in text else orjson.dumps(text).decode()
