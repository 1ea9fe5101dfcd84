"""Log lines as text and as JSON: one line a message, in UTC, with fields."""

import json
import logging
import os
import time
from collections.abc import Iterator

import pytest

from jobs.config.logs import AUDIT, JsonFormatter, TextFormatter, fields

AT_S = 1_767_225_600.4179  # 2026-01-01T00:00:00.417Z


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Live in another time zone than UTC."""
    monkeypatch.setitem(os.environ, "TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def record(message: str, *args: object, error: BaseException | None = None, **values: object) -> logging.LogRecord:
    info = (type(error), error, None) if error else None
    made = logging.LogRecord("jitney.worker", logging.WARNING, "", 0, message, args, info)
    made.created = AT_S
    vars(made).update(fields(values))
    return made


def test_text_has_the_fields_behind_the_message() -> None:
    line = TextFormatter("worker").format(record("ran %d", 3, items=12, jobs=["a", "b"], why="two words", left=None))
    assert line == '2026-01-01T00:00:00.417Z worker WARNING ran 3 items=12 jobs=a,b why="two words"'


@pytest.mark.parametrize("value", ["a\nb", 'a"b', "a=b c", "\x1b[31m"])
def test_a_field_of_a_caller_cannot_break_a_line(value: str) -> None:
    line = TextFormatter("worker").format(record("m", value=value))
    assert line.isprintable()
    assert line.partition(" value=")[2] == json.dumps(value)
    assert json.loads(JsonFormatter("worker").format(record("m", value=value)))["value"] == value


def test_json_has_the_same_and_a_traceback() -> None:
    line = JsonFormatter("gateway").format(
        record("it failed: %s", "why", error=ValueError("no"), request_id="r", x=None)
    )
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.417Z",
        "part": "gateway",
        "level": "warning",
        "message": "it failed: why",
        "request_id": "r",
        "error": "ValueError: no",
    }


def test_lines_of_the_audit_log_can_be_told_apart() -> None:
    made, other = record("paused %s", "m", model="m"), record("audit")
    made.name = AUDIT
    assert TextFormatter("gateway").format(made).endswith(" gateway WARNING audit paused m model=m")
    assert json.loads(JsonFormatter("gateway").format(made))["audit"] is True
    assert "audit" not in json.loads(JsonFormatter("gateway").format(other))
