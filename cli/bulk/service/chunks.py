"""Many lines in one request: how they are cut, how each looks as a job, and what the service's answer says of each."""

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
SETTLED: Final = b"0"  # at the place of a line that needs no answer any more: no job, and no key is touched

# Not now: the same request may pass later. 500 is a fault, which may pass too, but not for ever.
RETRYABLE_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
FAULT: Final = 500
# The key's job is of no use to us: its result is gone, or the input was another when it was made.
RESUBMIT_CODES: Final = frozenset({"result_expired", "idempotency_mismatch", "job_not_found"})


def split_chunks(items: Iterator[Item], lines: int) -> Iterator[list[Item]]:
    """Cut lines into chunks: always the same way from the same line on, so that a key stands for the same jobs."""
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
    """How an item becomes a job of one model."""

    def __init__(self, card: Mapping[str, Any], parameters: Mapping[str, Any], run: str) -> None:
        """`card`: what the service says of the model. `run`: its id, by which its jobs are found again."""
        self.model, self._parameters, self._run = str(card["name"]), parameters, run
        self._port: dict[str, Any] | None = None
        if "image" not in card["kinds"] and card["raw_bytes"] is not None:
            self._port = card["inputs"][0]
        self.takes_files = "image" in card["kinds"] or self._port is not None

    def line(self, item: Item) -> bytes:
        """Write a job as NDJSON; raises BadItem."""
        job: dict[str, Any] = {"parameters": self._parameters} if self._parameters else {}
        metadata = {"bulk": self._run, "line": str(item.line)}
        if item.job is not None:
            job |= {name: value for name, value in item.job.items() if name not in ID_COLUMNS}
            own = job.get("metadata")
            job["metadata"] = {**own, **metadata} if isinstance(own, dict) else metadata
        elif not self.takes_files:
            raise BadItem(
                "invalid_input", "the model takes neither an image nor bytes: give jobs with tensors, in .jsonl"
            )
        else:
            job |= {"input": self._input(item.read()), "metadata": metadata}
        try:
            return orjson.dumps(job)
        except TypeError as error:
            raise BadItem("malformed_request", f"the job can not be written: {error}") from error

    def _input(self, data: bytes) -> dict[str, Any]:
        if self._port is None:
            return {"image": pybase64.b64encode_as_string(data)}
        port = self._port
        tensor = {"datatype": port["datatype"], "shape": port["shape"], "b64": base64.b64encode(data).decode()}
        return {"tensors": {port["name"]: tensor}}


def encode_chunk(wording: JobEncoder, chunk: Sequence[Item]) -> tuple[dict[int, bytes], dict[int, ResultRow]]:
    """Read and write a chunk's lines by place, and the rows of those that can not be sent."""
    lines: dict[int, bytes] = {}
    rows: dict[int, ResultRow] = {}
    for place, item in enumerate(chunk):
        try:
            lines[place] = wording.line(item)
        except BadItem as error:
            rows[place] = failed_row(item, error.code, error.message)
    return lines, rows


class EntryOutcome(NamedTuple):
    """What an entry says: a row, an open job's id, or when and how to try again."""

    row: ResultRow | None = None
    open_job_id: str = ""
    anew: bool = False
    retry_later_s: float | None = None
    fault: bool = False


def classify_entry(item: Item, entry: Mapping[str, Any]) -> EntryOutcome:
    """Read one entry of an answer, a job or an error."""
    status = entry.get("status")
    if status == "succeeded":
        return EntryOutcome(ResultRow(item, status, orjson.dumps(entry["output"]), None, entry.get("batch_size") or 0))
    if status in ("queued", "running"):
        return EntryOutcome(open_job_id=str(entry["id"]))
    error = entry.get("error") or {}
    code, message = str(error.get("code", "internal_error")), str(error.get("message", "the service gave no reason"))
    if isinstance(status, str):  # a job that failed, expired or was canceled
        return EntryOutcome(failed_row(item, code, message, status)._replace(batch_size=entry.get("batch_size") or 0))
    if code in RESUBMIT_CODES:
        return EntryOutcome(failed_row(item, code, message), anew=True)
    number = error.get("status")
    if number in RETRYABLE_STATUSES:
        return EntryOutcome(retry_later_s=float(error.get("retry_after_s") or 1))
    return EntryOutcome(failed_row(item, code, message), fault=number == FAULT)
