"""Callers for the fault tests: their requests, and how a patient caller retries."""

import itertools
import random
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any, Final

import httpx2

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.history import History
from tests.support.cluster.parts import GatewayAddress, ManagedGateway
from tests.support.service import DIGITS

REQUEST_TIMEOUT_S = 15
PAUSE_S = 0.05


@dataclass(frozen=True)
class Input:
    """A request, and its expected answer where it is known."""

    model: str
    body: bytes
    content_type: str = "application/octet-stream"
    expected: str = ""
    more: Mapping[str, str] = field(default_factory=dict)


def digit(random_: random.Random) -> Input:
    image = random_.choice(DIGITS)
    return Input("digits", image.read_bytes(), "image/png", image.name[0])


def four(random_: random.Random, model: str = "slow") -> Input:
    """Four new numbers for a doubling model: a swapped answer is detected."""
    numbers = [float(random_.randrange(1000)) for _ in range(4)]
    return Input(model, struct.pack("<4f", *numbers), expected=str([2 * number for number in numbers]))


def marked(first: float, expected: str = "poison") -> Input:
    """Four numbers for a model that some numbers kill."""
    return Input("poison", struct.pack("<4f", first, 0, 0, 0), expected=expected)


class Caller:
    """Sends through any gateway, and records the responses."""

    def __init__(self, cluster: Cluster, history: History, seed: int = 0) -> None:
        self.cluster, self.history = cluster, history
        self.random = random.Random(seed)
        self._clients: dict[str, httpx2.Client] = {}

    def http(self, gateway: GatewayAddress) -> httpx2.Client:
        """The kept connections to a gateway."""
        if gateway.name not in self._clients:
            self._clients[gateway.name] = gateway.client(REQUEST_TIMEOUT_S)
        return self._clients[gateway.name]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def send(self, what: Input, gateway: GatewayAddress, key: str = "", wait: int = 0) -> httpx2.Response:
        """Submit once. Raises what the connection raises."""
        headers = {"content-type": what.content_type}
        headers |= {"idempotency-key": key} if key else {}
        headers |= {"prefer": f"wait={wait}"} if wait else {}
        try:
            query = {"model": what.model, **what.more}
            answer = self.http(gateway).post("/v1/jobs", content=what.body, params=query, headers=headers)
        except httpx2.HTTPError as error:
            self.history.unsure(gateway.name, key, repr(error))
            raise
        if answer.status_code in {200, 202}:
            self.history.submitted(gateway.name, key, answer.json(), what.expected)
            if answer.status_code == 200:
                self.history.read(gateway.name, answer.json())
        else:
            self.history.unsure(gateway.name, key, f"{answer.status_code} {answer.text}")
        return answer

    def submit(self, what: Input, gateway: GatewayAddress | None = None, key: str = "") -> str:
        """Submit while nothing is broken; return the id."""
        answer = self.send(what, gateway or self.any_gateway(), key)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def submit_until_taken(self, what: Input, key: str, stop: Event) -> str:
        """Retry the same key on any gateway until one accepts it; '' if stopped before."""
        while not stop.is_set():
            try:
                answer = self.send(what, self.any_gateway(), key)
                if answer.status_code in {200, 202}:
                    return str(answer.json()["id"])
                assert answer.status_code == 503, answer.text
            except httpx2.HTTPError:
                pass
            stop.wait(PAUSE_S)
        return ""

    def read(self, job_id: str, gateway: GatewayAddress, wait: int = 0) -> dict[str, Any] | None:
        """Read a job once; None where no response came. Raises what the connection raises."""
        answer = self.http(gateway).get(f"/v1/jobs/{job_id}", params={"wait": wait} if wait else {})
        if answer.status_code == 200:
            job: dict[str, Any] = answer.json()
            self.history.read(gateway.name, job)
            return job
        if answer.status_code == 404:
            self.history.missing(gateway.name, job_id)
        else:
            self.history.note("unread", gateway=gateway.name, id=job_id, status=answer.status_code)
        return None

    def any_gateway(self) -> ManagedGateway:
        return self.random.choice(self.cluster.gateways)


_LOADS: Final = itertools.count()


class Load:
    """Callers in threads, one job at a time each: retried until accepted, then awaited."""

    def __init__(self, cluster: Cluster, history: History, seed: int, callers: int, models: Sequence[str]) -> None:
        self._stop = Event()
        self.errors: list[BaseException] = []
        self.done = self.lost = 0
        self.took_s: list[float] = []  # from the first submit to the end, of each job that is done
        self._models = models
        load = next(_LOADS)  # two loads of a test must not use the same Idempotency-Keys
        self._threads = [
            Thread(target=self._call, args=(Caller(cluster, history, seed + n), f"{seed}-{load}-{n}"), daemon=True)
            for n in range(callers)
        ]

    def _call(self, caller: Caller, name: str) -> None:
        number = 0
        try:
            while not self._stop.is_set():
                number += 1
                model = caller.random.choice(self._models)
                began = time.monotonic()
                what = digit(caller.random) if model == "digits" else four(caller.random, model)
                job_id = caller.submit_until_taken(what, f"{name}-{number}", self._stop)
                if job_id and self._see_the_end(caller, job_id):
                    self.done += 1
                    self.took_s.append(time.monotonic() - began)
                self._stop.wait(caller.random.uniform(0, PAUSE_S))
        except BaseException as error:  # noqa: BLE001 (shown by the test's own thread)
            self.errors.append(error)
        finally:
            caller.close()

    def _see_the_end(self, caller: Caller, job_id: str) -> bool:
        while not self._stop.is_set():
            try:
                job = caller.read(job_id, caller.any_gateway(), wait=2)
                if job is not None and job["finished_at"]:
                    return True
                if job_id in caller.history.gone:
                    self.lost += 1
                    return False
            except httpx2.HTTPError:
                pass
            self._stop.wait(PAUSE_S)
        return False

    @contextmanager
    def running(self) -> Iterator["Load"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(3 * REQUEST_TIMEOUT_S)
        assert not self.errors, self.errors
