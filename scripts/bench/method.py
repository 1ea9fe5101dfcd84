"""How a measurement was made, where, and what makes it doubtful: figures without these are hearsay."""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from typing import Any, Final

from scripts.bench.closed_loop import PAUSE_AFTER_FAILURE_S, WAIT_S, WARM_S
from scripts.bench.session import Session

BUSY_GENERATOR: Final = 0.7
BUSY_MACHINE: Final = 0.2
PACKAGES: Final = ("jitney", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "uvicorn", "httptools", "uvloop")
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
SERVICE: Final = """
closed loop: each request in flight has a keep-alive connection of its own, and the next leaves when its answer is there
request: POST /v1/jobs with a raw body and Prefer: wait={wait}
an answer is a 200 with status succeeded; all else is a failure, after which that connection pauses {pause:g} s
rounds: {rounds}, each raw first and then every concurrency, {seconds:g} s each
warm-up before each, not counted: {warm:g} s, and until every connection had an answer
figures are medians over the rounds; the range is lowest to highest; stages are means over all answers
mean batch = answers / sum of 1/batch_size over the answers
queue, decode, batch, infer: as the jobs report them; finish: the rest of their total; http: latency less that total
the load generator is this Python process and shares the CPUs with the service; gen cpu: the cores it used, at most
"""
RAW: Final = """
raw: model.run in a loop on prepared arrays, in this process, threads as in model.toml ({threads}); {share:.2g} s each
decode: model.prepare in a loop in one thread; nothing presents the outputs
raw best: the faster of batch 1 and the largest batch
serial limit = 1 / (decode + 1 / raw best): one after the other; a service that decodes beside the run may pass it
ratios: answers/s over the raw figure of the same round, median over the rounds
"""


def machine() -> dict[str, Any]:
    """Where this runs, and with what."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"cpus": usable, "system": f"{platform.system()} {platform.machine()}", "versions": versions}


def warnings(session: Session) -> list[str]:
    """What makes the figures doubtful."""
    found = []
    for one in session.rows():
        if one.generator_cpu > BUSY_GENERATOR:
            share = f"c={one.concurrency}: the load generator used {one.generator_cpu:.2f} of a core"
            found.append(f"{share}; it may be the limit, not the service")
        if one.failures:
            kinds = ", ".join(f"{count} x {kind}" for kind, count in one.failures.items())
            found.append(f"c={one.concurrency}: {kinds} beside {one.answers} answers; none is counted as throughput")
        if not one.answers:
            found.append(f"c={one.concurrency}: not one answer in time")
    raw = session.raw()
    if raw is not None and (raw.foreign_cpu or 0) > BUSY_MACHINE:
        share = f"while the service was idle, other processes used {raw.foreign_cpu:.1f} of {machine()['cpus']} CPUs"
        found.append(f"{share}; all figures are those of a busy machine")
    if session.no_raw:
        found.append(f"no raw side to compare with: {session.no_raw}")
    elif session.target.address.host not in LOOPBACK:
        found.append("the raw side ran on this machine, the service may run on another: the ratios compare machines")
    return found


def method(session: Session) -> list[str]:
    """In the order in which a doubter asks."""
    plan, here = session.plan, machine()
    versions = " ".join(f"{name} {version}" for name, version in here["versions"].items())
    text = SERVICE.format(
        wait=WAIT_S, pause=PAUSE_AFTER_FAILURE_S, warm=WARM_S, rounds=plan.rounds, seconds=plan.seconds
    )
    if session.raws:
        threads = session.raw_side.threads if session.raw_side else 0
        share = plan.seconds / (len(session.raws[0].rates) + 1)
        text += RAW.format(threads=threads or f"all {here['cpus']}", share=share)
    first = f"{datetime.now(UTC):%Y-%m-%d}, {here['cpus']} CPUs, {here['system']}, {versions}"
    return [first, *(line for line in text.splitlines() if line)]
