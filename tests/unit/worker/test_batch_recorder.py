"""What a worker records of a batch: counters, and a bounded number of log lines."""

import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.contract.request_context import RequestContext
from jobs.metrics.histograms import HistogramBuffer
from worker.execution.batch_recorder import LINES_PER_SECOND, BatchRecorder


def batch(*contexts: RequestContext | None, splits: int = 0) -> Any:
    items = [
        SimpleNamespace(job=SimpleNamespace(id=str(at), request_context=context)) for at, context in enumerate(contexts)
    ]
    return SimpleNamespace(
        items=items, size=len(items), batches=[(len(items), 1.5)], splits=splits, work=8, padding=8 - len(items)
    )


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["jitney_fields"] for record in caplog.records]


def test_counters_add_up() -> None:
    buffer = HistogramBuffer()
    recorder = BatchRecorder("m 1", buffer, None)
    for run, reason in ((batch(None, None), "aged"), (batch(*[None] * 8), "full"), (batch(None, splits=3), "full")):
        recorder.record(run, reason, 0.002)
    counts = buffer.take()
    assert {name: counts[name] for name in ("closed:aged", "closed:full", "work", "padding", "splits")} == {
        "closed:aged": 1,
        "closed:full": 2,
        "work": 24,
        "padding": 13,
        "splits": 3,
    }
    assert (counts["size:sum"], counts["infer:sum"]) == (11, 4500)


def test_lines_are_bounded_and_say_what_they_leave_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "jitney.worker")
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    recorder = BatchRecorder("m 1", HistogramBuffer(), None)
    for _ in range(LINES_PER_SECOND + 7):
        recorder.record(batch(None, None), "aged", 0.002)
    assert len(lines(caplog)) == LINES_PER_SECOND
    recorder.record(batch(None, RequestContext("mine", "")), "aged", 0.002)  # its caller may look for it
    last = lines(caplog)[-1]
    assert (last["request_ids"], last["unlogged_batches"], last["unlogged_items"]) == (["mine"], 7, 14)
    now_s += 1
    recorder.record(batch(None), "aged", 0.002)
    last = lines(caplog)[-1]
    assert (last["model"], last["version"], last["items"], last["infer_ms"]) == ("m", "1", 1, 1.5)
    assert "unlogged_batches" not in last


def test_every_batch_has_a_line_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "jitney.worker")
    recorder = BatchRecorder("m 1", HistogramBuffer(), None)
    for _ in range(3 * LINES_PER_SECOND):
        recorder.record(batch(None), "aged", 0.002)
    assert len(lines(caplog)) == 3 * LINES_PER_SECOND
