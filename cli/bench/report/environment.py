"""Describes the machine and the method of a measurement, and lists warnings about its figures."""

import importlib.metadata
import platform
from datetime import UTC, datetime
from typing import Any, Final

from cli.bench.load import closed_loop, open_loop
from cli.bench.load.service_cpu import TICK_S
from cli.bench.load.submit_modes import WAIT_S
from cli.bench.load_levels import BULK, POLL, WAIT
from cli.bench.session import BenchSession
from cli.bench.statistics import LoadSummary
from model_runtime.cpus import usable_cpus

MAX_GENERATOR_CPU: Final = 0.7
MAX_OTHER_CPU: Final = 0.2
PACKAGES: Final = ("jitney", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "uvicorn", "httptools", "uvloop")
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
MODES: Final = {
    WAIT: "wait: POST /v1/jobs of one job and Prefer: wait={wait}",
    POLL: "poll: POST /v1/jobs of one job, then GET /v1/jobs/ID?wait={wait} until the job has ended",
    BULK: "bulk: POST /v1/jobs with {plan.bulk_size} jobs in NDJSON and Prefer: wait={wait}; latency is per request",
}
CLOSED: Final = """
closed loop: each request in flight has its own keep-alive connection, which sends the next after the response
warm-up before each load, not counted: {closed.WARMUP_S:g} s, and until every connection had an answer
a connection pauses {closed.PAUSE_AFTER_FAILURE_S:g} s after a failure or a refusal
"""
ACCEPTED: Final = """
accepted/s: afterwards the same requests without Prefer: as many jobs as were answered, for at most {plan.seconds:g} s
"""
OPEN: Final = """
open loop: request i is due at start + i / rate, regardless of the others; at most {plan.connections} connections
latency: from the due time, or from the send time if that was earlier (at most 3 ms)
warm-up before each load, at the same rate, not counted: {open.WARMUP_S:g} s; its unsent requests are dropped
overdue: sent more than {overdue:g} ms late; unsent: never sent, counted in percentiles with the time they waited
"""
SERVICE: Final = """
answers: succeeded jobs, counted on arrival; refused: 429 and 503; failures: everything else
rounds: {plan.rounds}; each measures raw first, then every load, {plan.seconds:g} s each
figures are medians over the rounds; range: lowest to highest; stages: means over all answers
mean batch = answers / sum of 1/batch_size over the answers
queue, decode, batch, infer: as reported by jobs; finish: the rest of their total; http: latency minus that total
the load generator is this Python process, on the CPUs of this machine; gen cpu: the most cores it used in a round
"""
CPU: Final = """
CPU time: jitney_cpu_seconds_total of /metrics, per job that ended (of any client), summed over processes of a part
read before a load and {tick:g} s after it, when all processes have reported: it includes warm-up and this idle time
"""
RAW: Final = """
raw: model.run in a loop on preprocessed arrays, in this process, threads of model.toml ({threads}); {share:.2g} s each
raw batches are of the {usual} of the inputs whose arrays have the most frequent shape
decode: model.preprocess in a loop in one thread; outputs are not postprocessed
raw best: the faster of batch 1 and the largest batch
serial limit = 1 / (decode + 1 / raw best): without overlap; a service that decodes during runs can exceed it
ratios: answers/s divided by the raw figure of the same round, median over the rounds
"""


def describe_machine() -> dict[str, Any]:
    """Return CPUs, system and package versions of this machine."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"cpus": usable_cpus(), "system": f"{platform.system()} {platform.machine()}", "versions": versions}


def list_warnings(session: BenchSession) -> list[str]:
    """Return the reasons why figures may be wrong."""
    warnings = [line for row in session.rows() for line in _row_warnings(row)]
    raw = session.raw()
    if raw is not None and (raw.other_cpu_cores or 0) > MAX_OTHER_CPU:
        used = f"{raw.other_cpu_cores:.1f} of {describe_machine()['cpus']} CPUs"
        warnings.append(f"while the service was idle, other processes used {used}; this affects all figures")
    if session.no_raw:
        warnings.append(f"no raw measurement to compare with: {session.no_raw}")
    elif session.target.address.host not in LOOPBACK:
        warnings.append("raw ran on this machine, the service may run on another: the ratios compare machines")
    if session.cpu.unknown:
        warnings.append(f"no CPU time of the service: {session.cpu.unknown}")
    return warnings


def _row_warnings(row: LoadSummary) -> list[str]:
    warnings = []
    if row.generator_cpu > MAX_GENERATOR_CPU:
        used = f"{row.load}: the load generator used {row.generator_cpu:.2f} of a core"
        warnings.append(f"{used}; it may be the limit, not the service")
    for name, kinds in (("refused", row.refused), ("failed", row.failures)):
        if kinds:
            listed = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
            warnings.append(f"{row.load}: {name}: {listed}, and {row.answers} answers; only answers are throughput")
    if row.unsent:
        warnings.append(f"{row.load}: {row.unsent} jobs were due and not sent; the true percentiles are higher")
    if not row.throughput:
        warnings.append(f"{row.load}: no answer in time")
    return warnings


def describe_method(session: BenchSession) -> list[str]:
    """Describe how the figures were measured, a line each."""
    plan, machine = session.plan, describe_machine()
    versions = " ".join(f"{name} {version}" for name, version in machine["versions"].items())
    threads = (session.raw_side.spec.threads if session.raw_side else 0) or f"all {machine['cpus']}"
    share = plan.seconds / (len(session.raws[0].rates) + 1) if session.raws else 0
    usual = f"{session.raw_side.usual_share:.0%}" if session.raw_side else ""
    facts = {"usual": usual, "plan": plan, "closed": closed_loop, "open": open_loop, "threads": threads, "share": share}
    overdue_ms = open_loop.OVERDUE_S * 1000
    text = "\n".join(_lines(session)).format(**facts, wait=WAIT_S, tick=TICK_S, overdue=overdue_ms)
    first = f"{datetime.now(UTC):%Y-%m-%d}, {machine['cpus']} CPUs, {machine['system']}, {versions}"
    return [first, *(line for line in text.splitlines() if line)]


def _lines(session: BenchSession) -> list[str]:
    plan = session.plan
    has_closed, has_open = bool(plan.concurrency), bool(plan.rate)
    parts = [MODES[mode] for mode in plan.mode]
    parts += [CLOSED] if has_closed else []
    parts += [ACCEPTED] if has_closed and BULK in plan.mode else []
    parts += [OPEN] if has_open else []
    parts += [SERVICE]
    parts += [] if session.cpu.unknown else [CPU]
    parts += [RAW] if session.raws else []
    return parts
