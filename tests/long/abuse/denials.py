"""The time that a denied request takes: it must not tell what exists.

A gateway with API keys gets pairs of requests in turn: for the job of another tenant and for an unknown one; with a key
that differs in its last character and with an unknown one. Prints the two medians of each pair. The exit code is 1 if
they differ by more than 15 %, which other work on the machine can cause.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from typing import Final

import httpx2

from tests.support.api_keys import Caller, callers, make_key
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import wait_until

ROUNDS: Final = 2000
MOST: Final = 0.15
UNKNOWN_JOB: Final = "00" + "0" * 32
UNKNOWN_KEY: Final = "jk_" + "f" * 16 + "_" + "A" * 43


def medians(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Time two calls in turn, in seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for call, into in zip((first, second), times, strict=True):
            begun = time.perf_counter()
            call()
            into.append(time.perf_counter() - begun)
    return statistics.median(times[0]), statistics.median(times[1])


def compare(what: str, first: Callable[[], object], second: Callable[[], object]) -> bool:
    first_s, second_s = medians(first, second)
    print(f"{what}: {first_s * 1e6:.0f} and {second_s * 1e6:.0f} µs, ratio {first_s / second_s:.3f}", flush=True)
    return abs(first_s - second_s) <= MOST * second_s


def main() -> int:
    queue = Server()
    try:
        with GatewayProcess(queue) as gateway:
            return 0 if asyncio.run(_are_equal(queue, gateway)) else 1
    finally:
        queue.close()


async def _are_equal(queue: Server, gateway: GatewayProcess) -> bool:
    worker = Worker(queue)
    await worker.announce(gateway)
    await worker.connection.aclose()
    key = make_key(queue.url, "acme")
    acme, (bolt,) = Caller(gateway, key), callers(queue, gateway, "bolt")
    wait_until(lambda: acme.get("/v1/jobs").status_code == 200, "the key is known")
    job_id = acme.submit(PNG).json()["id"]
    near_miss = key[:-1] + ("A" if key[-1] != "A" else "Q")

    def about(method: str, asked: str) -> Callable[[], object]:
        return lambda: _check(404, bolt.request(method, f"/v1/jobs/{asked}"))

    def with_key(text: str) -> Callable[[], object]:
        return lambda: _check(401, gateway.http.get("/v1/jobs", headers={"authorization": f"Bearer {text}"}))

    pairs = {
        "GET of another tenant's job and of an unknown one": (about("GET", job_id), about("GET", UNKNOWN_JOB)),
        "DELETE of another tenant's job and of an unknown one": (about("DELETE", job_id), about("DELETE", UNKNOWN_JOB)),
        "a key with one wrong character and an unknown one": (with_key(near_miss), with_key(UNKNOWN_KEY)),
    }
    equal = [compare(what, *pair) for what, pair in pairs.items()]
    return all(equal)


def _check(status: int, answer: httpx2.Response) -> None:
    if answer.status_code != status:
        raise AssertionError(f"the status is {answer.status_code}, not {status}: {answer.text}")


if __name__ == "__main__":
    sys.exit(main())
