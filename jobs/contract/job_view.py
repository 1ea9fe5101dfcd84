"""JSON view of a job in the API, and the format of times. JSON that a worker wrote is passed on unchanged."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson

from jobs.contract.job import Job

_OUTPUT_MARK: Final = b'"%s"' % secrets.token_hex(16).encode()  # in place of an output; no metadata can contain it


@lru_cache(256)
def format_timestamp(us: int | None) -> str | None:
    """Format a time in µs since the epoch as RFC 3339 with ms; cached, because jobs of one call share it."""
    if us is None:
        return None
    digits = str(us) if us >= 1_000_000 else f"{us:07d}"
    return f"{_format_second(digits[:-6])}.{digits[-6:-3]}Z"


@lru_cache(16)
def _format_second(seconds: str) -> str:
    """Format a second; cached, because times of one moment share it."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S")


def job_view(job: Job, position: int | None = None) -> dict[str, Any]:
    """Return the job's view, ready for orjson. Timings are in ms; None for a stage that has not ended."""
    job_id, state, model, version, lane, _ = job[:6]
    created_us, attempts, metadata, started_us, finished_us, output, error, stages_ms, batch_size = job[6:15]
    decode, batch, infer = stages_ms or (None, None, None)
    path = f"/v1/jobs/{job_id}"
    return {
        "id": job_id,
        "model": model,
        "version": version,
        "status": state,
        "lane": lane,
        "created_at": format_timestamp(created_us),
        "started_at": format_timestamp(started_us),
        "finished_at": format_timestamp(finished_us),
        "attempts": attempts,
        "output": orjson.Fragment(output) if output else None,
        "error": orjson.Fragment(error) if error else None,
        "timings": {
            "queue": (started_us - created_us) / 1000 if started_us else None,
            "decode": decode,
            "batch": batch,
            "infer": infer,
            "total": (finished_us - created_us) / 1000 if finished_us else None,
        },
        "batch_size": batch_size or None,
        "position": position,
        "eta_ms": None,
        "metadata": orjson.Fragment(metadata),
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
