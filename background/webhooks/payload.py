"""Builds webhook payloads: a bulk job, or a finished job with its output if it is small, else with a link."""

import orjson

from jobs.contract.job_view import format_timestamp, job_view
from jobs.webhooks.outbox import Attempt


def build_payload(attempt: Attempt, public_url: str) -> bytes:
    """Return the payload; every attempt of a delivery has the same bytes."""
    job = attempt.job
    if job is None:
        return attempt.payload
    link = f"{public_url.rstrip('/')}/v1/jobs/{job.id}" if attempt.output_bytes and job.output is None else None
    data = {**job_view(job), "output_url": link}
    return orjson.dumps({"type": f"job.{attempt.event}", "timestamp": format_timestamp(job.finished_us), "data": data})
