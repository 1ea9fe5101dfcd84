"""Mixed load in one thread: callers retry with the same key, through any gateway, until they are answered."""

import asyncio
import io
import random
from typing import Any

import orjson
from PIL import Image

from cli.bench.load.connection import Address, Connection, connect
from tests.support.cluster.history import FINAL
from tests.support.service import DIGITS

PATIENCE_S = 20
PAUSE_S = 0.1
BOUNDARY = "a-boundary"
# How often each kind comes, in hundredths.
KINDS = {"wait": 50, "poll": 20, "predict": 8, "bulk": 10, "broken": 4, "cancel": 3, "late": 2, "twice": 3}


class MixedLoad:
    """The accepted jobs, what is known of each, and how each ended for every reader."""

    def __init__(self, ports: list[int], seed: int, stop: asyncio.Event) -> None:
        self._addresses = [Address("127.0.0.1", port, "") for port in ports]
        self._seed, self._stop = seed, stop
        self._images = [(path.name[0], path.read_bytes()) for path in DIGITS]
        self._broken = _broken_image()
        self.accepted: dict[str, str] = {}  # id → the label that it must get, '' where it may end otherwise
        self.ends: dict[str, bytes] = {}  # id → how it ended for its caller
        self.wrong: list[str] = []
        self.unsure = 0  # submits without a key that were never answered: each may be a job, or not
        self.statuses: dict[int, int] = {}

    async def call(self, number: int) -> None:
        """Run one caller until stopped."""
        chance = random.Random(self._seed * 1000 + number)
        made = 0
        while not self._stop.is_set():
            made += 1
            (kind,) = chance.choices([*KINDS], [*KINDS.values()])
            await _CallerTask(self, chance, f"{number}-{made}").make(kind)

    async def pause(self, seconds: float = PAUSE_S) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return

    def choose(self, chance: random.Random) -> tuple[str, bytes]:
        return chance.choice(self._images)

    @property
    def broken(self) -> bytes:
        return self._broken

    @property
    def is_over(self) -> bool:
        return self._stop.is_set()

    async def ask(self, chance: random.Random, head: list[str], body: bytes = b"") -> tuple[int, dict[str, Any]] | None:
        """Send one request to some gateway; None without a response."""
        address = chance.choice(self._addresses)
        connection: Connection | None = None
        try:
            connection = await asyncio.wait_for(connect(address), PATIENCE_S)
            line, *headers = head
            lines = [f"{line} HTTP/1.1", f"Host: {address.authority}", f"Content-Length: {len(body)}", *headers]
            sent = "\r\n".join([*lines, "", ""]).encode() + body
            answer = await asyncio.wait_for(connection.request(sent), PATIENCE_S)
        except (OSError, TimeoutError):
            return None
        finally:
            if connection is not None:
                connection.close()
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        return answer.status, orjson.loads(answer.body)

    def took(self, job: dict[str, Any], expected: str) -> None:
        self.accepted[job["id"]] = expected
        self.read(job)

    def read(self, job: dict[str, Any]) -> bool:
        """Record the state of a job; return whether it has ended."""
        if job["status"] not in FINAL:
            return False
        end = orjson.dumps([job["status"], job["output"], job["error"], job["attempts"]])
        if self.ends.setdefault(job["id"], end) != end:
            self.wrong.append(f"{job['id']} ended as {self.ends[job['id']]!r}, and as {end!r}")
        return True


class _CallerTask:
    """One request of one caller."""

    def __init__(self, load: MixedLoad, chance: random.Random, key: str) -> None:
        self._load, self._chance, self._key = load, chance, key
        self._label, self._image = load.choose(chance)

    async def make(self, kind: str) -> None:
        if kind == "predict":
            return await self._predict()
        if kind == "broken":
            self._label, self._image = "", self._load.broken
        query = {"bulk": "&lane=bulk", "late": "&deadline_ms=3"}.get(kind, "")
        if kind in {"late", "cancel"}:
            self._label = ""
        job = await self._submit(query, wait=kind in {"wait", "broken", "twice"})
        if job and kind == "twice":
            await self._submit(query, wait=True, must_be=job["id"])
        elif job and kind == "cancel":
            await self._load.ask(self._chance, [f"DELETE /v1/jobs/{job['id']}"])
        elif job and kind in {"poll", "wait"}:
            await self._poll(job)
        return None

    async def _submit(self, query: str, *, wait: bool, must_be: str = "") -> dict[str, Any] | None:
        """Retry until some gateway accepts it."""
        head = [f"POST /v1/jobs?model=digits{query}", "Content-Type: image/png", f"Idempotency-Key: {self._key}"]
        head += ["Prefer: wait=10"] if wait else []
        while True:
            answer = await self._load.ask(self._chance, head, self._image)
            if answer and answer[0] in {200, 202}:
                job = answer[1]
                if must_be and job["id"] != must_be:
                    self._load.wrong.append(f"key {self._key} made {must_be}, and {job['id']}")
                self._load.took(job, self._label)
                return job
            if answer and answer[0] != 503:
                self._load.wrong.append(f"a submit was answered {answer}")
            if self._load.is_over:
                self._load.unsure += 1
                return None
            await self._load.pause()

    async def _poll(self, job: dict[str, Any]) -> None:
        while not self._load.read(job) and not self._load.is_over:
            answer = await self._load.ask(self._chance, [f"GET /v1/jobs/{job['id']}?wait=2"])
            if answer and answer[0] == 200:
                job = answer[1]
            elif answer and answer[0] != 503:
                self._load.wrong.append(f"job {job['id']} was answered {answer}")
                return
            else:
                await self._load.pause()

    async def _predict(self) -> None:
        part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'.encode()
        body = part + self._image + f"\r\n--{BOUNDARY}--\r\n".encode()
        head = ["POST /predict", f"Content-Type: multipart/form-data; boundary={BOUNDARY}"]
        answer = await self._load.ask(self._chance, head, body)
        if answer is None or answer[0] in {503, 504}:
            self._load.unsure += 1
            await self._load.pause()
        elif answer[0] != 200 or answer[1]["predictions"][0]["label"] != self._label:
            self._load.wrong.append(f"/predict of a {self._label} was answered {answer}")
        else:
            self._load.unsure += 1  # done, and its id is not told


def _broken_image() -> bytes:
    out = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(out, "PNG")
    return out.getvalue()[:1000]
