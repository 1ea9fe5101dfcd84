"""Callers that send without pause, and check each answer against the version that its job names."""

import random
import threading
import time
from collections import Counter, deque
from typing import Any, NamedTuple, Self

import httpx2

CALLERS = 32


class CallerResponse(NamedTuple):
    """One response. `asked_at` and the duration are on the monotonic clock."""

    asked_at: float
    took_s: float
    version: str
    fault: str


class Callers:
    """Call the model `times`, whose version n multiplies by n. Use it in a `with`."""

    def __init__(self, url: str, callers: int = CALLERS) -> None:
        self._url, self._stop = url, threading.Event()
        self.answers: deque[CallerResponse] = deque()
        self._threads = [threading.Thread(target=self._ask) for _ in range(callers)]

    def _ask(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=60, trust_env=False, verify=False) as http:
            while not self._stop.is_set():
                asked_at, number = time.monotonic(), float(random.randrange(1, 1000))
                version, fault = _ask_once(http, number)
                self.answers.append(CallerResponse(asked_at, time.monotonic() - asked_at, version, fault))

    def since(self, moment: float) -> list[CallerResponse]:
        """List the answers to requests since that time."""
        return [answer for answer in [*self.answers] if answer.asked_at >= moment]

    def versions_since(self, moment: float) -> Counter[str]:
        return Counter(answer.version for answer in self.since(moment))

    @property
    def faults(self) -> list[CallerResponse]:
        return [answer for answer in [*self.answers] if answer.fault]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def _ask_once(http: httpx2.Client, number: float) -> tuple[str, str]:
    """Call once; return the version that answered, and the error if there was one."""
    tensor = {"datatype": "FP32", "shape": [4], "data": [number] * 4}
    body = {"model": "times", "input": {"tensors": {"x": tensor}}}
    try:
        answer = http.post("/v1/jobs", json=body, headers={"prefer": "wait=50"})
    except httpx2.HTTPError as error:
        return "", f"no answer: {error!r}"
    job: dict[str, Any] = answer.json()
    if answer.status_code != 200 or job["status"] != "succeeded":
        return str(job.get("version", "")), f"{answer.status_code}: {job}"
    got = job["output"]["tensors"]["y"]["data"]
    mixed = got != [number * int(job["version"])] * 4
    return job["version"], f"mixed: {number} became {got} in version {job['version']}" if mixed else ""
