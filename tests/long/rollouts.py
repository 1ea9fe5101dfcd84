"""Rollouts under load while workers are killed.

Prints what callers noticed; ends with 1 where one of them noticed anything but the time.
"""

import argparse
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support import models
from tests.support.rollout.callers import CALLERS, CallerResponse, Callers
from tests.support.rollout.steps import Life
from tests.support.service import Service
from tests.support.waiting import wait_until

QUICK = {
    "JITNEY_MODELS_POLL_S": "0.5",
    "JITNEY_UNLOAD_AFTER_S": "2",
    "JITNEY_WORKERS": "2",
    "JITNEY_GATEWAYS": "2",
    "JITNEY_RESTART_LIMIT_S": "0.5",
}


def live(life: Life, models_dir: Path, first: int, *, kills: bool) -> int:
    """Run one rollout from version `first`; return the first version of the next."""
    second, third = first + 1, first + 2
    life.upgrade(second)
    life.canary(third, percent=25, beside=second)
    if kills:
        kill_a_worker(life.service)
    life.promote(third)
    if kills and random.random() < 0.5:
        kill_a_worker(life.service)
    life.roll_back(to=second)
    life.reload(second)
    life.unload(first)
    life.ask("follow")
    life.until(third, "ready", share=100)
    for version in (first, second):
        shutil.rmtree(models_dir / "times" / str(version))
    return third


def kill_a_worker(service: Service) -> None:
    """Kill one worker when all are running: the other continues."""

    def is_whole() -> bool:
        started = len(re.findall(r"worker \w+ serves ", service.log()))
        return started == int(QUICK["JITNEY_WORKERS"]) + service.log().count("killed by signal 9")

    wait_until(is_whole, "all workers are there", 30)
    service.kill("worker")


def spread(values: Sequence[float], unit: float = 1) -> str:
    ordered = sorted(values)
    tail = ordered[int(len(ordered) * 0.99)]
    return f"p50 {statistics.median(ordered) * unit:.1f}, p99 {tail * unit:.1f}, max {ordered[-1] * unit:.1f}"


def report(answers: Sequence[CallerResponse], lives: int, killed: int, took_s: dict[str, list[float]]) -> int:
    """Print the figures; returns the exit code."""
    faults = [answer for answer in answers if answer.fault]
    mixed = sum(answer.fault.startswith("mixed") for answer in faults)
    versions = {answer.version for answer in answers if answer.version}
    print(f"{lives} lives, {killed} workers killed, {CALLERS} callers, {len(answers)} jobs in {len(versions)} versions")
    print(f"failed or refused: {len(faults) - mixed}, answered by another version: {mixed}")
    print(f"time of a request, ms: {spread([answer.took_s for answer in answers], 1000)}")
    for what, seconds in took_s.items():
        print(f"{what}, s: {spread(seconds)}")
    for answer in faults[:10]:
        print(answer)
    return 1 if faults else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make long NAME=rollouts")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--no-kills", action="store_true", help="kill no worker")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="jit") as folder:
        models_dir, version, lives = Path(folder), 1, 0
        models.times(models_dir, version)
        until = time.monotonic() + given.minutes * 60
        with Service(models_dir, QUICK) as service, Callers(service.url) as callers:
            life = Life(service, callers, models_dir)
            while time.monotonic() < until:
                version = live(life, models_dir, version, kills=not given.no_kills)
                lives += 1
            killed = service.log().count("killed by signal 9")
        return report([*callers.answers], lives, killed, life.took_s)


if __name__ == "__main__":
    sys.exit(main())
