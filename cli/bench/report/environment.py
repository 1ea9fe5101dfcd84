"""How a measurement was made, where, and what makes it doubtful: figures without these are hearsay."""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from typing import Any, Final

from cli.bench.load import open_loop
from cli.bench.load.closed_loop import PAUSE_AFTER_FAILURE_S, WARMUP_S
from cli.bench.load.service_cpu import TICK_S
from cli.bench.load.submit_modes import WAIT_S
from cli.bench.load_levels import BULK, POLL, WAIT
from cli.bench.session import BenchSession
from cli.bench.statistics import LoadSummary

MAX_GENERATOR_CPU: Final = 0.7
MAX_OTHER_CPU: Final = 0.2
PACKAGES: Final = ("jitney", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "uvicorn", "httptools", "uvloop")
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
MODES: Final = {
    WAIT: "wait: POST /v1/jobs with a raw body and Prefer: wait={wait}",
    POLL: "poll: POST /v1/jobs with a raw body, then GET /v1/jobs/ID?wait={wait} until the job has ended",
    BULK: "bulk: POST /v1/jobs with {bulk} jobs in NDJSON and Prefer: wait={wait}; a latency is that of one request",
}
CLOSED: Final = """
closed loop: each request in flight has a keep-alive connection of its own, and the next leaves when its answer is there
warm-up before each, not counted: {warm:g} s, and until every connection had an answer
after a failure or a refusal a connection pauses {pause:g} s
"""
ACCEPTED: Final = """
accepted/s: then the same requests without Prefer, as many jobs as had just been answered and at most {seconds:g} s long
"""
OPEN: Final = """
open loop: request number i is due at start + i / rate, whatever became of others; at most {connections} connections
latency from when it was due, however late it left; at most 3 ms early, then from when it left
warm-up before each at the same rate, not counted: {open_warm:g} s; what it leaves unsent is dropped
overdue: left more than {overdue:g} ms late; unsent: not at all, and in the percentiles with what they had waited
"""
SERVICE: Final = """
an answer is a job that succeeded, counted when it comes; refused: 429 and 503; failures: all else
rounds: {rounds}, each raw first and then every load, {seconds:g} s each
figures are medians over the rounds; the range is lowest to highest; stages are means over all answers
mean batch = answers / sum of 1/batch_size over the answers
queue, decode, batch, infer: as the jobs report them; finish: the rest of their total; http: latency less that total
the load generator is this Python process; where the service is, it shares its CPUs; gen cpu: the cores it used, at most
"""
CPU: Final = """
CPU time: jitney_cpu_seconds_total of /metrics, over the jobs that ended meanwhile (of whoever); all processes of a part
read before a load and {tick:g} s after its end, when every process has told all: warm-up and that idle time are in it
"""
RAW: Final = """
raw: model.run in a loop on prepared arrays, in this process, threads as in model.toml ({threads}); {share:.2g} s each
decode: model.prepare in a loop in one thread; nothing presents the outputs
raw best: the faster of batch 1 and the largest batch
serial limit = 1 / (decode + 1 / raw best): one after the other; a service that decodes beside the run may pass it
ratios: answers/s over the raw figure of the same round, median over the rounds
"""


def describe_machine() -> dict[str, Any]:
    """Where this runs, and with what."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"cpus": usable, "system": f"{platform.system()} {platform.machine()}", "versions": versions}


def list_warnings(session: BenchSession) -> list[str]:
    """What makes the figures doubtful."""
    found = [line for one in session.rows() for line in _row_warnings(one)]
    raw = session.raw()
    if raw is not None and (raw.other_cpu_cores or 0) > MAX_OTHER_CPU:
        share = (
            f"while the service was idle, other processes used {raw.other_cpu_cores:.1f} of "
            f"{describe_machine()['cpus']} CPUs"
        )
        found.append(f"{share}; all figures are those of a busy machine")
    if session.no_raw:
        found.append(f"no raw side to compare with: {session.no_raw}")
    elif session.target.address.host not in LOOPBACK:
        found.append("the raw side ran on this machine, the service may run on another: the ratios compare machines")
    if session.cpu.unknown:
        found.append(f"no CPU time of the service: {session.cpu.unknown}")
    return found


def _row_warnings(one: LoadSummary) -> list[str]:
    found = []
    if one.generator_cpu > MAX_GENERATOR_CPU:
        share = f"{one.load}: the load generator used {one.generator_cpu:.2f} of a core"
        found.append(f"{share}; it may be the limit, not the service")
    for what, kinds in (("refused", one.refused), ("failed", one.failures)):
        if kinds:
            listed = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
            found.append(f"{one.load}: {what}: {listed}, beside {one.answers} answers; none is counted as throughput")
    if one.unsent:
        found.append(f"{one.load}: {one.unsent} jobs were due and not sent; the true percentiles are higher")
    if not one.throughput:
        found.append(f"{one.load}: not one answer in time")
    return found


def describe_method(session: BenchSession) -> list[str]:
    """In the order in which a doubter asks."""
    plan, here = session.plan, describe_machine()
    versions = " ".join(f"{name} {version}" for name, version in here["versions"].items())
    threads = (session.raw_side.threads if session.raw_side else 0) or f"all {here['cpus']}"
    text = "\n".join(_lines(session)).format(
        wait=WAIT_S,
        bulk=plan.bulk_size,
        pause=PAUSE_AFTER_FAILURE_S,
        warm=WARMUP_S,
        open_warm=open_loop.WARMUP_S,
        overdue=open_loop.OVERDUE_S * 1000,
        connections=plan.connections,
        rounds=plan.rounds,
        seconds=plan.seconds,
        tick=TICK_S,
        threads=threads,
        share=plan.seconds / (len(session.raws[0].rates) + 1) if session.raws else 0,
    )
    first = f"{datetime.now(UTC):%Y-%m-%d}, {here['cpus']} CPUs, {here['system']}, {versions}"
    return [first, *(line for line in text.splitlines() if line)]


def _lines(session: BenchSession) -> list[str]:
    plan = session.plan
    closed, opened = bool(plan.concurrencies), bool(plan.rates)
    parts = [MODES[mode] for mode in plan.modes]
    parts += [CLOSED] if closed else []
    parts += [ACCEPTED] if closed and BULK in plan.modes else []
    parts += [OPEN] if opened else []
    parts += [SERVICE]
    parts += [] if session.cpu.unknown else [CPU]
    parts += [RAW] if session.raws else []
    return parts
