"""The traffic of abusive tenants: ten kinds of abuse, and for each the valid requests it is compared with.

Everything is written to sockets by hand: no client library would send it. It runs in a process of its own, so that its
cost does not delay the tenant whose waiting is measured.
"""

import asyncio
import base64
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tests.support.waiting import pass_time

PIPELINED: Final = 1000  # requests that a tenant pipelines at once
PIPELINES_EVERY: Final = 4  # acts
HOOKS: Final = 8  # jobs with webhooks that one act submits
UPLOADS: Final = 4  # uploads that one act begins
MOST_UPLOADS: Final = 128  # that are open at a time, over all tenants
LARGE: Final = 400_000  # numbers in a large output: about 2 MB as JSON
SMALL: Final = 4
EXPIRED: Final = 1200  # jobs that a tenant has in its list, and whose results are gone
FORM: Final = b"multipart/form-data; boundary=x"
ANSWER_S: Final = 30.0
MOST_KEPT: Final = 1 << 16  # bytes of an answer
DIGITS_OF_EXPIRY: Final = 5000
ORIGINS: Final = 200  # all of them are met in one round where memory is watched, so that rounds are alike


def bmp(width: int, height: int) -> bytes:
    """A BMP of about 1 kB that declares many pixels, run-length encoded."""
    palette, data = bytes(1024), b"\x01\x00\x00\x00" * height + b"\x00\x01"
    begins = 14 + 40 + len(palette)
    head = b"BM" + struct.pack("<IHHI", begins + len(data), 0, 0, begins)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0) + palette + data


def form(fields: list[tuple[str, bytes]], file: bytes | None = None) -> bytes:
    parts = [b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (n.encode(), v) for n, v in fields]
    if file is not None:
        parts.append(b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n%s\r\n' % file)
    return b"".join(parts) + b"--x--\r\n"


@dataclass
class Target:
    """The service and the test data of the acts. `image` is a valid input of the model."""

    port: int
    image: bytes
    silent_port: int
    receiver_port: int
    seen: Counter[str] = field(default_factory=Counter)
    held: list[asyncio.StreamWriter] = field(default_factory=list)
    uploads: list[asyncio.StreamWriter] = field(default_factory=list)

    def request(
        self, method: str, path: str, key: str, body: bytes = b"", kind: str = "application/json", *, more: str = ""
    ) -> bytes:
        """Write a request that ends its connection. An empty key: none is sent."""
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
        lines += [f"Authorization: Bearer {key}"] if key else []
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"] if body or method == "POST" else []
        lines += [more] if more else []
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def ask(self, data: bytes, what: str) -> bytes:
        """Send bytes on a connection of their own and read until the service closes it; counts the status."""
        writer = None
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(data)
                answer = b""
                while block := await reader.read(1 << 20):
                    answer += block if len(answer) < MOST_KEPT else b""
        except (OSError, TimeoutError) as error:
            self.seen[f"{what}: {type(error).__name__}"] += 1
            return b""
        finally:
            if writer is not None:
                writer.close()
        self.seen[f"{what}: {answer[9:12].decode(errors='replace') or 'closed'}"] += 1
        return answer

    def image_job(self, image: bytes, webhook: str = "", **more: object) -> bytes:
        fields = {"model": "digits", "input": {"image": base64.b64encode(image).decode()}, **more}
        return json.dumps({**fields, "webhook": webhook} if webhook else fields).encode()

    def tensor_job(self, size: int) -> bytes:
        tensor = {"datatype": "INT64", "shape": [1], "data": [size]}
        return json.dumps({"model": "grow", "input": {"tensors": {"n": tensor}}}).encode()

    def line(self, custom_id: str, body: bytes) -> bytes:
        return b'{"custom_id":"%s","method":"POST","url":"/v1/jobs","body":%s}\n' % (custom_id.encode(), body)


Act = Callable[[Target, str, int], Awaitable[None]]


# ---- the kinds: what is abused, and the valid requests beside it. `nth`: the how-manieth act of the tenant


async def list_expired(target: Target, key: str, nth: int) -> None:
    """List over more than a thousand jobs whose results are gone."""
    del nth
    await target.ask(target.request("GET", "/v1/jobs?limit=1", key), "list")


async def list_few(target: Target, key: str, nth: int) -> None:
    del nth
    await target.ask(target.request("GET", "/v1/jobs?limit=1", key), "list")


async def pipeline_without_key(target: Target, key: str, nth: int) -> None:
    """Send a thousand requests at once, without a key, and read no answer; then pause."""
    del key
    if nth % PIPELINES_EVERY:
        return
    with suppress(OSError):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", target.port))
        reader, writer = await asyncio.open_connection(sock=made)
        writer.write(b"GET /v1/jobs HTTP/1.1\r\n\r\n" * PIPELINED)
        target.held.append(writer)
        target.seen["pipelined: sent"] += 1
        del reader


async def pipeline_with_key(target: Target, key: str, nth: int) -> None:
    """Send as many requests in the same time one after the other, and read each answer."""
    del nth
    one = target.request("GET", "/v1/jobs?limit=1", key).replace(b"Connection: close\r\n", b"")
    with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
            for _ in range(PIPELINED // PIPELINES_EVERY):
                writer.write(one)
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                )
                await reader.readexactly(size)
            writer.close()
            target.seen["pipelined: answered"] += 1


async def upgrade(target: Target, key: str, nth: int) -> None:
    """Ask for an upgrade in a request with a body, which itself looks like a request."""
    del nth
    inner = b"GET /healthz HTTP/1.1\r\nHost: inner\r\n\r\n"
    data = target.request("POST", "/v1/jobs", key, inner, more="Upgrade: h2c")
    await target.ask(data.replace(b"Connection: close", b"Connection: Upgrade, close"), "upgrade")


async def job(target: Target, key: str, nth: int) -> None:
    del nth
    await target.ask(target.request("POST", "/v1/jobs", key, target.image_job(target.image)), "job")


async def punycode(target: Target, key: str, nth: int) -> None:
    """Send a form in a character set that is slow to decode, or in one that does not exist."""
    charset = "punycode" if nth % 2 else f"x-{nth}-{random.random()}"
    body = form([(f"f{n}-", b"b" * 65_000) for n in range(15)])
    await target.ask(target.request("POST", "/predict", key, body, FORM.decode() + f"; charset={charset}"), "form")


async def plain_form(target: Target, key: str, nth: int) -> None:
    del nth
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n%s\r\n' % target.image
    await target.ask(
        target.request("POST", "/predict", key, body + form([("model", b"digits")]), FORM.decode()), "form"
    )


async def begin_uploads(target: Target, key: str, nth: int) -> None:
    """Begin uploads and abandon them."""
    del nth
    begun = form([], b"a").removesuffix(b"\r\n--x--\r\n")
    head = target.request("POST", "/v1/files", key, b"", FORM.decode()).replace(b"Length: 0", b"Length: 100000")
    for _ in range(UPLOADS):
        if len(target.uploads) < MOST_UPLOADS:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", target.port)
                writer.write(head + begun)
                target.uploads.append(writer)
                target.seen["upload: begun"] += 1


async def upload(target: Target, key: str, nth: int) -> None:
    del nth
    for _ in range(UPLOADS):
        body = form([("purpose", b"batch")], target.line("a", target.image_job(target.image)))
        await target.ask(target.request("POST", "/v1/files", key, body, FORM.decode()), "upload")


async def silent_hooks(target: Target, key: str, nth: int) -> None:
    """Submit jobs with webhooks to many origins that accept connections and say nothing."""
    hosts = [2 + (nth * HOOKS + n) % ORIGINS for n in range(HOOKS)]
    lines = [target.image_job(target.image, f"http://127.0.0.{host}:{target.silent_port}/x") for host in hosts]
    kind = "application/x-ndjson"
    await target.ask(target.request("POST", "/v1/jobs", key, b"\n".join(lines) + b"\n", kind), "webhooks")


async def good_hooks(target: Target, key: str, nth: int) -> None:
    del nth
    lines = [target.image_job(target.image, f"http://127.0.0.1:{target.receiver_port}/x")] * HOOKS
    kind = "application/x-ndjson"
    await target.ask(target.request("POST", "/v1/jobs", key, b"\n".join(lines) + b"\n", kind), "webhooks")


async def packed_picture(target: Target, key: str, nth: int) -> None:
    """Send a picture of 1 kB that unpacks to 50 million pixels."""
    size = (49_990_000, 1) if nth % 2 else (7000, 7000)
    await target.ask(target.request("POST", "/v1/jobs", key, target.image_job(bmp(*size))), "picture")


async def bomb(target: Target, key: str, nth: int) -> None:
    """Send a job of very deep JSON, or of more than a million values."""
    deep = b"[" * 1000 + b"]" * 1000
    huge = b"[" + b"{}," * 1_100_000 + b"{}]"
    body = b'{"model":"grow","input":{"tensors":{"n":{"datatype":%s,"shape":[1],"data":[1]}}}}' % deep
    if nth % 2:
        body = b'{"model":"digits","input":{"image":""},"metadata":%s}' % huge
    await target.ask(target.request("POST", "/v1/jobs", key, body), "json")


async def batch_of(target: Target, key: str, lines: bytes, what: str) -> None:
    """Upload a file, and make a batch over it."""
    answer = await target.ask(
        target.request("POST", "/v1/files", key, form([("purpose", b"batch")], lines), FORM.decode()), f"{what} file"
    )
    _, _, text = answer.partition(b"\r\n\r\n")
    with suppress(ValueError, KeyError):
        asked = {"input_file_id": json.loads(text)["id"], "endpoint": "/v1/jobs", "completion_window": "60s"}
        await target.ask(target.request("POST", "/v1/batches", key, json.dumps(asked).encode()), what)


async def bad_batch(target: Target, key: str, nth: int) -> None:
    """Make a batch whose lines are JSON bombs; or upload a file that expires after a number of 5,000 digits."""
    if nth % 2:
        digits = b"9" * DIGITS_OF_EXPIRY
        fields = [("purpose", b"batch"), ("expires_after[anchor]", b"created_at"), ("expires_after[seconds]", digits)]
        body = form(fields, target.line("a", target.image_job(target.image)))
        await target.ask(target.request("POST", "/v1/files", key, body, FORM.decode()), "batch file")
        return
    many = b'{"model":"digits","input":{"image":""},"metadata":[%s{}]}' % (b"{}," * 1_100_000)
    deep = b'{"model":"grow","input":{"tensors":{"n":{"datatype":%s,"shape":[1],"data":[1]}}}}' % (
        b"[" * 900 + b"]" * 900
    )
    lines = target.line("many", many) + target.line("deep", deep) + target.line("good", target.tensor_job(SMALL))
    await batch_of(target, key, lines, "batch")


async def batch(target: Target, key: str, nth: int) -> None:
    if nth % 2:
        fields = [("purpose", b"batch"), ("expires_after[anchor]", b"created_at"), ("expires_after[seconds]", b"3600")]
        body = form(fields, target.line("a", target.image_job(target.image)))
        await target.ask(target.request("POST", "/v1/files", key, body, FORM.decode()), "batch file")
        return
    lines = b"".join(target.line(f"l{n}", target.tensor_job(SMALL)) for n in range(3))
    await batch_of(target, key, lines, "batch")


async def list_large(target: Target, key: str, nth: int) -> None:
    """Make large outputs, and list over them."""
    await _make_or_list(target, key, nth, LARGE)


async def list_small(target: Target, key: str, nth: int) -> None:
    await _make_or_list(target, key, nth, SMALL)


async def _make_or_list(target: Target, key: str, nth: int, size: int) -> None:
    if nth % 4 == 0:
        await target.ask(target.request("POST", "/v1/jobs", key, target.tensor_job(size)), "output")
    else:
        await target.ask(target.request("GET", "/v1/jobs?limit=100", key), "list of outputs")


KINDS: Final[list[tuple[str, Act, Act]]] = [
    ("lists over expired jobs", list_expired, list_few),
    ("pipelining without a key", pipeline_without_key, pipeline_with_key),
    ("Upgrade with a body", upgrade, job),
    ("forms with a charset", punycode, plain_form),
    ("half-begun uploads", begin_uploads, upload),
    ("webhooks to silent origins", silent_hooks, good_hooks),
    ("RLE BMPs", packed_picture, job),
    ("deep and huge JSON", bomb, job),
    ("bad batches and expiries", bad_batch, batch),
    ("lists over large outputs", list_large, list_small),
]


async def _make(act: Act, target: Target, key: str, nth: int) -> None:
    await act(target, key, nth)


async def run_tenant(target: Target, kind: int, key: str, rate: float, seconds: float, *, abuses: bool) -> None:
    """Act at a fixed rate, independent of how long an act takes."""
    _, abuse, valid = KINDS[kind]
    act = abuse if abuses else valid
    loop, chance = asyncio.get_running_loop(), random.Random(key)
    begun, under_way = loop.time() + chance.random() / rate, set[asyncio.Task[None]]()
    for nth in range(int(seconds * rate)):
        await pass_time(max(0.0, begun + nth / rate - loop.time()))
        task = asyncio.create_task(_make(act, target, key, nth))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.wait(under_way, timeout=ANSWER_S + 5) if under_way else None


async def run_all(target: Target, keys: list[str], rate: float, seconds: float, *, abuses: bool) -> Counter[str]:
    """Run all tenants, one kind each; return the responses."""
    each = [run_tenant(target, n % len(KINDS), key, rate, seconds, abuses=abuses) for n, key in enumerate(keys)]
    try:
        await asyncio.gather(*each)
    finally:
        for writer in [*target.held, *target.uploads]:
            writer.close()
    return target.seen


async def fill_lists(target: Target, keys: list[str]) -> None:
    """Give the tenants that list a thousand jobs and more, whose results will expire."""
    lines = (target.tensor_job(SMALL) + b"\n") * (EXPIRED // 4)
    for key in [key for n, key in enumerate(keys) if n % len(KINDS) == 0]:
        for _ in range(4):
            await target.ask(target.request("POST", "/v1/jobs", key, lines, "application/x-ndjson"), "prepared")
