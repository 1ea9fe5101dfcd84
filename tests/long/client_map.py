"""`map` of the Python client over many inputs while the gateway and the worker are killed in turn.

Prints what it found; exits 1 if an input was lost, answered wrong or run as two jobs.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from jitney_client import Jitney
from jitney_client.inputs import Input

from tests.support import models
from tests.support.service import Service
from tests.support.waiting import wait_until
from tests.system.jobs.test_crashes import queue, totals

MODEL = "slow"


def kill_parts(service: Service, every_s: float, end: threading.Event, kills: Counter[str]) -> None:
    """Kill the worker and the gateway in turn until the end."""
    while True:
        for part in ("worker", "api"):
            if end.wait(every_s):
                return
            pid = wait_until(lambda part=part: service.pid(part), f"{part} runs", 60)  # type: ignore[misc]
            os.kill(pid, signal.SIGKILL)
            kills[part] += 1
            wait_until(lambda part=part, pid=pid: service.pid(part) not in {0, pid}, f"another {part} runs", 60)  # type: ignore[misc]


def run(count: int, every_s: float, concurrency: int, *, ordered: bool) -> bool:
    """Map over `count` inputs; return whether each has one job and its answer."""
    with tempfile.TemporaryDirectory() as folder:
        models.slow(Path(folder))
        engine = Path(folder, MODEL, "slow.py")
        engine.write_text(engine.read_text().replace("0.05 *", "0.003 *"))
        with Service(Path(folder)) as service, Jitney(service.url) as jitney:
            return _map(service, jitney, count, every_s, concurrency, ordered=ordered)


def _map(service: Service, jitney: Jitney, count: int, every_s: float, concurrency: int, *, ordered: bool) -> bool:
    kills, end, answers = Counter[str](), threading.Event(), Counter[int]()
    wrong, attempts = 0, Counter[int]()
    killer = threading.Thread(target=kill_parts, args=(service, every_s, end, kills))
    killer.start()
    began_s = time.monotonic()
    try:
        inputs: Iterator[Input] = ({"tensors": {"x": [n + 1.0] * 4}} for n in range(count))
        for result in jitney.map(MODEL, inputs, concurrency=concurrency, ordered=ordered, return_errors=True):
            answers[result.index] += 1
            if result.error is not None or result.output["tensors"]["y"]["data"] != [2.0 * (result.index + 1)] * 4:
                wrong += 1
                print(f"input {result.index}: {result.error or result.output}")
            attempts[result.job.data["attempts"] if result.job else 0] += 1
    finally:
        end.set()
        killer.join()
    took_s = time.monotonic() - began_s
    with queue(service) as client:
        submitted, succeeded = totals(client, MODEL)
    lost, doubled = count - len(answers), sum(times > 1 for times in answers.values())
    print(f"{count} inputs in {took_s:.0f} s, {'in order' if ordered else 'as they ended'}; kills: {dict(kills)}")
    print(f"answered {len(answers)}, lost {lost}, twice {doubled}, wrong or failed {wrong}")
    print(f"jobs submitted {submitted}, succeeded {succeeded}; jobs by attempts: {dict(sorted(attempts.items()))}")
    return not (lost or doubled or wrong) and submitted == succeeded == count


def main(argv: Sequence[str] | None = None) -> int:
    """Run it twice, with and without the order of the inputs; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make long NAME=client-map", description="What `map` promises, with kills.")
    parser.add_argument("--count", type=int, default=10_000, help="inputs")
    parser.add_argument("--every", type=float, default=3, help="seconds between two kills")
    parser.add_argument("--concurrency", type=int, default=256, help="jobs in flight")
    given = parser.parse_args(argv)
    ends = [run(given.count, given.every, given.concurrency, ordered=ordered) for ordered in (True, False)]
    return 0 if all(ends) else 1


if __name__ == "__main__":
    sys.exit(main())
