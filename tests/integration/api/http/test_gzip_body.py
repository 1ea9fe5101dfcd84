"""Gzip bodies are decompressed step by step, and their decompressed size is counted and bounded."""

import asyncio
import gzip
import itertools
import json
import random
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from api.asgi.gzip_body import MAX_SMALL_MEMBERS, STEP_BYTES, GzipReceiver
from jobs.contract.errors import Refused
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server

NOISE: Final = random.Random(4).randbytes(600_000)
LINES: Final = b'{"a": 1}\n' * 200_000


def steps(packed: bytes, cut: int) -> list[bytes]:
    """Decompress a body that arrives in chunks of one size."""
    pieces = [packed[at : at + cut] for at in range(0, len(packed), cut)] or [b""]
    messages = iter([{"type": "http.request", "body": one, "more_body": True} for one in pieces[:-1]])

    async def receive() -> Any:
        return next(messages, {"type": "http.request", "body": pieces[-1], "more_body": False})

    async def read() -> list[bytes]:
        unpacking, found, more = GzipReceiver(receive), list[bytes](), True
        while more:
            message = await unpacking()
            found.append(message["body"])
            more = message["more_body"]
        return found

    return asyncio.run(read())


@pytest.mark.parametrize("cut", [1 << 20, 20_000, 7])
@pytest.mark.parametrize("plain", [b"", b"x", LINES, NOISE[:50_000], bytes(3 * STEP_BYTES)])
def test_a_gzip_body_is_decompressed_in_bounded_steps(plain: bytes, cut: int) -> None:
    packed = gzip.compress(plain, 1)
    found = steps(packed, max(cut, len(packed) // 2000))
    assert b"".join(found) == plain
    assert max(len(step) for step in found) <= STEP_BYTES


@pytest.mark.parametrize("cut", [1 << 20, 100, 1])
def test_consecutive_gzip_members_are_one_body(cut: int) -> None:
    plain = [LINES[:3000], b"", NOISE[:2000]]
    assert b"".join(steps(b"".join(gzip.compress(one) for one in plain), cut)) == b"".join(plain)


BROKEN: Final = {
    "cut short": gzip.compress(LINES)[:-9],
    "no trailer": gzip.compress(b"x")[:-8],
    "nothing": b"",
    "not packed": b'{"model": "m"}',
    "zlib's form": zlib.compress(b"x"),
    "another sum": gzip.compress(b"x")[:-5] + b"\0" * 5,
    "junk behind": gzip.compress(b"x") + b"junk",
    "a second one cut short": gzip.compress(b"x") + gzip.compress(LINES)[:-1],
    "empty members without end": gzip.compress(b"") * (MAX_SMALL_MEMBERS + 1),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("cut", [1 << 20, 3])
def test_incomplete_gzip_is_refused(what: str, cut: int) -> None:
    with pytest.raises(Refused, match="gzip") as refused:
        steps(BROKEN[what], cut)
    assert refused.value.code == "malformed_request"


def test_empty_members_cost_little_before_they_are_refused() -> None:
    begun = time.process_time()
    with pytest.raises(Refused, match="members"):
        steps(gzip.compress(b"") * 100_000, 1 << 18)
    assert time.process_time() - begun < 1


# ---- over a gateway's doors


@pytest.fixture(scope="module")
def gateway(queue: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = str(tmp_path_factory.mktemp("bulk"))
    bounds = {"JITNEY_MAX_BODY_BYTES": "1000000", "JITNEY_BULK_STORE": folder, "JITNEY_BULK_FILE_BYTES": "3000000"}
    with GatewayProcess(queue, bounds) as process:
        yield process


def packed(body: bytes, kind: str) -> dict[str, Any]:
    return {"content": gzip.compress(body), "headers": {"content-type": kind, "content-encoding": "gzip"}}


def form(field: str, file: bytes, *more: tuple[str, str]) -> bytes:
    texts = "".join(f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in more)
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="f"\r\n\r\n'
    return texts.encode() + head.encode() + file + b"\r\n--x--\r\n"


FORM: Final = "multipart/form-data; boundary=x"
JOB: Final = {"model": "m", "input": {"image": "iVBORw0KGgo="}}
DOORS: Final = {
    "JSON": ("/v1/jobs", json.dumps(JOB).encode(), "application/json", 202),
    "NDJSON": ("/v1/jobs", b"\n".join([json.dumps(JOB).encode()] * 3), "application/x-ndjson", 202),
    "an image": ("/v1/jobs?model=m", PNG + NOISE[:1000], "image/png", 202),
    "octets": ("/v1/jobs?model=m", bytes(16), "application/octet-stream", 202),
    "a form": ("/v1/jobs", form("image", PNG, ("model", "m")), FORM, 202),
    "a file": ("/v1/files", form("file", LINES, ("purpose", "batch")), FORM, 200),
}


@pytest.mark.parametrize("door", DOORS)
async def test_every_route_accepts_a_gzip_body(gateway: GatewayProcess, worker: Worker, door: str) -> None:
    await worker.announce(gateway)
    path, body, kind, status = DOORS[door]
    answer = gateway.http.post(path, **packed(body, kind))
    assert answer.status_code == status, answer.text
    if door == "an image":
        (claimed,) = await worker.claim()
        assert claimed.input == body
        await worker.succeed([claimed])
    if door == "a file":
        assert answer.json()["bytes"] == len(LINES)
        assert gateway.http.get(f"/v1/files/{answer.json()['id']}/content").content == LINES


async def test_the_limits_apply_to_the_decompressed_body(
    gateway: GatewayProcess, worker: Worker, tmp_path: Path
) -> None:
    del tmp_path
    await worker.announce(gateway)
    large = gateway.http.post("/v1/jobs?model=m", **packed(PNG + bytes(1_000_000), "image/png"))
    assert (large.status_code, large.json()["limit_bytes"]) == (413, 1_000_000)
    just = gateway.http.post("/v1/jobs?model=m", **packed(PNG + bytes(1_000_000 - len(PNG)), "image/png"))
    assert just.status_code == 202
    file = gateway.http.post("/v1/files", **packed(form("file", bytes(3_000_001)), FORM))
    assert (file.status_code, file.json()["error"]["code"]) == (413, "body_too_large")
    behind = packed(form("file", LINES, ("purpose", "batch")) + bytes(4_000_000), FORM)
    assert gateway.http.post("/v1/files", **behind).status_code == 413
    chunks = itertools.chain([gzip.compress(PNG)[:10]], itertools.repeat(gzip.compress(PNG)[10:], 1))
    headers = {"content-type": "image/png", "content-encoding": "x-gzip"}
    assert gateway.http.post("/v1/jobs?model=m", content=chunks, headers=headers).status_code == 202
