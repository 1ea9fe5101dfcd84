"""Caches admitted submissions, so that a request that differs only in its raw input is not checked again.

Callers send the same query, or the same JSON of the Open Inference Protocol, again and again. Such a request is parsed
once. Its repeats have the same `JobRequest` object, which is the key here.
"""

from typing import Final, NamedTuple

from jobs.contract.ids import choose_shard, new_job_id
from jobs.contract.job import Submission
from jobs.contract.job_request import JobRequest
from jobs.contract.request_context import REQUEST_CONTEXT
from jobs.models.catalog import ModelCard

MAX_KEPT: Final = 256


class _Known(NamedTuple):
    """A request without its input, the model that it was admitted for, the size of its input, and its submission."""

    job_request: JobRequest
    card: ModelCard
    size_bytes: int
    job: Submission


class KnownRequests:
    """Submissions by the request that they came from, without inputs."""

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._known: dict[tuple[int, str], _Known] = {}  # by the identity of the request, and its tenant

    def admit(
        self, card: ModelCard, tenant: str, job_request: JobRequest, raw: bytes | memoryview
    ) -> Submission | None:
        """Return the submission of a request with this input to a model; None if it is not known."""
        known = self._known.get((id(job_request), tenant))
        if known is None or known.job_request is not job_request or known.card is not card:
            return None
        if known.size_bytes != len(raw):
            return None
        job, job_id = known.job, new_job_id(choose_shard(self._shards, tenant, ""))
        return Submission(job_id, job.model, job.version, job.kind, raw, *job[5:-1], REQUEST_CONTEXT.get())

    def keep(self, card: ModelCard, tenant: str, job_request: JobRequest, job: Submission) -> None:
        """Keep a submission if only the size of the input needs a check: kind raw, not BOOL, no webhook."""
        if job.kind != "raw" or job.webhook or card["inputs"][0]["datatype"] == "BOOL":
            return
        if len(self._known) >= MAX_KEPT:
            self._known.clear()
        known = _Known(job_request, card, len(job.input), job._replace(input=b"", request_context=None))
        self._known[id(job_request), tenant] = known
