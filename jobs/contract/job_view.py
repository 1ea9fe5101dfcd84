"""JSON view of a job in the API. JSON parts that a worker wrote are passed on unchanged."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson

from jobs.contract.job import Job

_OUTPUT_MARK: Final = b'"%s"' % secrets.token_hex(16).encode()  # in place of an output; no metadata can contain it


def format_timestamp(us: int | None) -> str | None:
    """Format a time in µs since the epoch as RFC 3339 with ms."""
    if us is None:
        return None
    ms = us // 1000
    return f"{_format_second(ms // 1000)}.{ms % 1000:03d}Z"


@lru_cache(16)
def _format_second(seconds: int) -> str:
    """Format a second; cached, because jobs of one moment share it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def timings(job: Job) -> dict[str, float | None]:
    """Return the job's time by stage in ms; None for a stage that has not ended."""
    decode, batch, infer = job.stages_ms or (None, None, None)
    created_us, started_us, finished_us = job.created_us, job.started_us, job.finished_us
    queue = (started_us - created_us) / 1000 if started_us else None
    total = (finished_us - created_us) / 1000 if finished_us else None
    return {"queue": queue, "decode": decode, "batch": batch, "infer": infer, "total": total}


def job_view(job: Job, position: int | None = None) -> dict[str, Any]:
    """Return the job's view, ready for orjson."""
    path = f"/v1/jobs/{job.id}"
    return {
        "id": job.id,
        "model": job.model,
        "version": job.version,
        "status": job.state,
        "lane": job.lane,
        "created_at": format_timestamp(job.created_us),
        "started_at": format_timestamp(job.started_us),
        "finished_at": format_timestamp(job.finished_us),
        "attempts": job.attempts,
        "output": orjson.Fragment(job.output) if job.output else None,
        "error": orjson.Fragment(job.error) if job.error else None,
        "timings": timings(job),
        "batch_size": job.batch_size or None,
        "position": position,
        "eta_ms": None,
        "metadata": orjson.Fragment(job.metadata),
        "urls": {"self": path, "events": f"{path}/events", "cancel": path},
    }


def linked_view(job: Job) -> dict[str, Any]:
    """Return the job's view with a link to its output, which is too large to be included."""
    return {**job_view(job), "output_url": f"/v1/jobs/{job.id}"}


def split_view(dump: Callable[[Job], bytes], job: Job) -> tuple[bytes, bytes]:
    """Return the JSON of a job before and after its output. `dump` encodes a job."""
    head, _, tail = dump(job._replace(output=_OUTPUT_MARK)).partition(_OUTPUT_MARK)
    return head, tail


def listed_view(job: Job) -> dict[str, Any]:
    """Return the job's view for a list: without its output, so that a page has a bounded size."""
    return {name: value for name, value in job_view(job).items() if name != "output"}
