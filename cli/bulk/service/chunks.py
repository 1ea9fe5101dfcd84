"""Splits lines into chunks, encodes a chunk as one NDJSON request, and classifies the entries of the response."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
import pybase64

from cli.bulk.errors import BadItem
from cli.bulk.inputs.items import Item
from cli.bulk.inputs.tables import ID_COLUMNS
from cli.bulk.results.rows import ResultRow, failed_row

CHUNK_LINES: Final = 100
CHUNK_BYTES: Final = 2 << 20
SETTLED: Final = b"0"  # replaces a line that has its result: the service rejects it and creates no job

# The same request may succeed later. 500 is a fault of the service: its retries are limited.
RETRYABLE_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
FAULT: Final = 500
# The job of this key is unusable: its result expired, or its input differs.
RESUBMIT_CODES: Final = frozenset({"result_expired", "idempotency_mismatch", "job_not_found"})


def split_chunks(items: Iterator[Item], lines: int) -> Iterator[list[Item]]:
    """Split lines into chunks, always at the same lines, so that each Idempotency-Key names the same jobs."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        if chunk and (len(chunk) == lines or size + item.size > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += item.size
    if chunk:
        yield chunk


class JobEncoder:
    """Encodes items as jobs of one model."""

    def __init__(self, card: Mapping[str, Any], parameters: Mapping[str, Any], run: str) -> None:
        """`card`: the service's description of the model. `run`: the run id in the metadata of its jobs."""
        self.model, self._parameters, self._run = str(card["name"]), parameters, run
        self._field = next((field for field in ("image", "audio") if field in card["kinds"]), "")
        self._tensor_spec: dict[str, Any] | None = None
        if not self._field and card["raw_bytes"] is not None:
            self._tensor_spec = card["inputs"][0]
        elif not self._field and "bytes" in card["kinds"]:
            self._field = "bytes"
        self.takes_files = bool(self._field) or self._tensor_spec is not None

    def encode(self, item: Item) -> bytes:
        """Return a job as a line of NDJSON. Raises BadItem."""
        job: dict[str, Any] = {"parameters": self._parameters} if self._parameters else {}
        metadata = {"bulk": self._run, "line": str(item.line)}
        if item.job is not None:
            job |= {name: value for name, value in item.job.items() if name not in ID_COLUMNS}
            own_metadata = job.get("metadata")
            job["metadata"] = {**own_metadata, **metadata} if isinstance(own_metadata, dict) else metadata
        elif not self.takes_files:
            item.read()  # an invalid line has an error of its own
            reason = "the model accepts neither images, audio nor bytes: send jobs with its input, in .jsonl"
            raise BadItem("invalid_input", reason)
        else:
            job |= {"input": self._input(item.read()), "metadata": metadata}
        try:
            return orjson.dumps(job)
        except TypeError as error:
            raise BadItem("malformed_request", f"cannot encode the job: {error}") from error

    def _input(self, data: bytes) -> dict[str, Any]:
        if self._tensor_spec is None:
            return {self._field: pybase64.b64encode_as_string(data)}
        spec = self._tensor_spec
        tensor = {"datatype": spec["datatype"], "shape": spec["shape"], "b64": base64.b64encode(data).decode()}
        return {"tensors": {spec["name"]: tensor}}


def encode_chunk(encoder: JobEncoder, chunk: Sequence[Item]) -> tuple[dict[int, bytes], dict[int, ResultRow]]:
    """Encode the lines of a chunk; return the lines and the rows of lines that cannot be sent, by position."""
    lines: dict[int, bytes] = {}
    rows: dict[int, ResultRow] = {}
    for position, item in enumerate(chunk):
        try:
            lines[position] = encoder.encode(item)
        except BadItem as error:
            rows[position] = failed_row(item, error.code, error.message)
    return lines, rows


class EntryOutcome(NamedTuple):
    """The result of an entry: a row, the id of an open job, or how to retry."""

    row: ResultRow | None = None
    open_job_id: str = ""
    resubmit: bool = False  # under another Idempotency-Key
    retry_later_s: float | None = None
    is_fault: bool = False


def classify_entry(item: Item, entry: Mapping[str, Any]) -> EntryOutcome:
    """Classify an entry of a response, which is a job or an error."""
    status = entry.get("status")
    if status == "succeeded":
        return EntryOutcome(ResultRow(item, status, orjson.dumps(entry["output"]), None, entry.get("batch_size") or 0))
    if status in ("queued", "running"):
        return EntryOutcome(open_job_id=str(entry["id"]))
    error = entry.get("error") or {}
    code, message = str(error.get("code", "internal_error")), str(error.get("message", "the service sent no reason"))
    if isinstance(status, str):  # a job that failed, expired or was canceled
        return EntryOutcome(failed_row(item, code, message, status)._replace(batch_size=entry.get("batch_size") or 0))
    if code in RESUBMIT_CODES:
        return EntryOutcome(failed_row(item, code, message), resubmit=True)
    error_status = error.get("status")
    if error_status in RETRYABLE_STATUSES:
        return EntryOutcome(retry_later_s=float(error.get("retry_after_s") or 1))
    return EntryOutcome(failed_row(item, code, message), is_fault=error_status == FAULT)
