"""Bulk jobs made with OpenAI's client, and the sum that must hold for each finished one."""

import base64
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from openai import DefaultHttpxClient, OpenAI
from openai.types import Batch

from tests.support.gateways import PNG
from tests.support.waiting import wait_until

ENDED = {"completed", "failed", "expired", "cancelled"}
# Small, so that few lines take many steps.
QUICK = {
    "JITNEY_BULK_COLLECT_S": "0.1",
    "JITNEY_BULK_POLL_S": "0.05",
    "JITNEY_BULK_STEP_LEASE_S": "1.5",
    "JITNEY_BULK_CHUNK": "10",
    "JITNEY_BULK_IN_FLIGHT": "40",
}


def client(url: str, key: str = "none", **more: Any) -> OpenAI:
    """OpenAI's client with default settings, but for the address. It reads no certificates: 20 ms of CPU time."""
    return OpenAI(base_url=f"{url}/v1", api_key=key, http_client=DefaultHttpxClient(verify=False), **more)


def line(custom_id: str, image: bytes = PNG, model: Any = "m", **body: Any) -> str:
    """A line that asks for an image's class."""
    fields = {"model": model, "input": {"image": base64.b64encode(image).decode()}, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/jobs", "body": fields})


def create_batch(ai: OpenAI, file_id: str, window: str = "24h", endpoint: str = "/v1/jobs", **more: Any) -> Batch:
    """Make a batch over a file; the client's types know OpenAI's endpoints and window alone."""
    asked: Any = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": window, **more}
    return ai.batches.create(**asked)


def start_batch(ai: OpenAI, lines: Sequence[str | bytes], **more: Any) -> Batch:
    """Upload lines, and have them run."""
    data = b"\n".join(one if isinstance(one, bytes) else one.encode() for one in lines) + b"\n"
    return create_batch(ai, ai.files.create(file=("lines.jsonl", data), purpose="batch").id, **more)


def wait_for_batch(ai: OpenAI, batch: Batch, done: Callable[[Batch], bool], what: str, timeout_s: float = 30) -> Batch:
    """Poll a batch until a condition holds."""

    def look() -> Batch | None:
        seen = ai.batches.retrieve(batch.id)
        return seen if done(seen) else None

    return wait_until(look, f"{what}: {batch.id}", timeout_s)


def wait_for_end(ai: OpenAI, batch: Batch, timeout_s: float = 30) -> Batch:
    """Wait until a batch has ended."""
    return wait_for_batch(ai, batch, lambda seen: seen.status in ENDED, "it ends", timeout_s)


def results(ai: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """Read the lines of a results file."""
    return [json.loads(one) for one in ai.files.content(file_id).content.splitlines()] if file_id else []


def check_batch(ai: OpenAI, batch: Batch, ids: Sequence[str], broken: int = 0) -> tuple[list[Any], list[Any]]:
    """P9: output and error lines are the input lines, each custom_id once; `broken` lines have none. Gives both."""
    good, bad = results(ai, batch.output_file_id), results(ai, batch.error_file_id)
    found = Counter(one["custom_id"] for one in (*good, *bad))
    assert found.pop(None, 0) == broken
    assert found == Counter(ids)
    lines = Counter(int(one["id"][-8:], 16) for one in (*good, *bad))
    assert set(lines.values()) == {1}
    assert all(one["error"]["line"] == int(one["id"][-8:], 16) and one["error"]["code"] for one in bad)
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (len(ids) + broken, len(good), len(bad))
    return good, bad
