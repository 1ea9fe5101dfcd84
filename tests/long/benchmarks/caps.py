"""The batch cap that a worker measures, compared with the best of a sweep, by CPU time a job.

A tiny network and, where the shared data is, SqueezeNet on photographs; each cap is a model of its own in one service,
loaded in turn, and the least of some rounds counts: what makes a job dearer is other work. Exit code 1: a found cap
costs more than 5 % above the best.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from cli.bench.load import closed_loop
from cli.bench.load.connection import Address
from cli.bench.load.service_cpu import ServiceCpu
from cli.bench.load.submit_modes import Exchange, build_submit_request, submit_and_wait
from cli.bench.load_levels import WAIT, LoadLevel
from cli.bench.statistics import CpuUsage
from tests.long.benchmarks.flat import SHARED_DATA
from tests.support import models
from tests.support.service import Service

CLOSE: Final = 1.05
IN_FLIGHT: Final = 192  # three batches of the largest cap: one runs, one waits, one is on its way
NETWORK: Final = "squeezenet1.1_fp32_dynbatch.derived.onnx"


class Subject(NamedTuple):
    """A network, the caps to sweep, and its input."""

    name: str
    caps: tuple[int, ...]
    content_type: str
    body: bytes


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    code = 0
    with tempfile.TemporaryDirectory() as name:
        for subject in make_models(Path(name)):
            with Service(Path(name) / subject.name) as service:
                cards = service.http.get("/v1/models").json()["models"]
                found = next(card["max_batch"] for card in cards if card["name"] == subject.name)
                costs = sweep(service, subject, args.rounds, args.seconds)
            best = min(costs, key=lambda cap: costs[cap])
            above = costs[found] / costs[best]
            code |= above > CLOSE
            told = ", ".join(f"{cap}: {us:.0f}" for cap, us in costs.items())
            print(f"{subject.name}: found {found}, {above - 1:+.1%} of the best ({best}); CPU-µs a job by cap {told}")
    return code


def make_models(where: Path) -> list[Subject]:
    """Each network with every cap, and once with none set."""
    tiny = Subject("tiny", (1, 4, 8, 16, 32, 64), "application/octet-stream", bytes(784 * 4))
    for cap in tiny.caps:
        models.perceptron(where / "tiny", f"tiny-{cap}")
        path = where / "tiny" / f"tiny-{cap}" / "model.toml"
        path.write_text(f"max_batch = {cap}\n{path.read_text()}")
    models.perceptron(where / "tiny", "tiny")
    if not SHARED_DATA.is_dir():
        return [tiny]
    photo = (SHARED_DATA / "photos" / "husky.jpg").read_bytes()
    real = Subject("squeezenet", (1, 2, 4, 8, 16, 32), "image/jpeg", photo)
    for cap in real.caps:
        models.squeezenet(where / "squeezenet", SHARED_DATA, NETWORK, f"squeezenet-{cap}", f"max_batch = {cap}")
    models.squeezenet(where / "squeezenet", SHARED_DATA, NETWORK)
    return [tiny, real]


def sweep(service: Service, subject: Subject, rounds: int, seconds: float) -> dict[int, float]:
    """CPU-µs a job, of all parts of the service, by cap."""
    address = Address.of(service.url)
    cpu, costs = ServiceCpu(address), dict[int, float]()
    for _ in range(rounds):
        for cap in subject.caps:
            cpu.settle()
            before = cpu.read()
            request = build_submit_request(address, f"{subject.name}-{cap}", subject.content_type, subject.body)
            exchange = Exchange(1, [request], submit_and_wait)
            result = asyncio.run(closed_loop.measure(address, exchange, LoadLevel(WAIT, IN_FLIGHT), seconds))
            assert not result.failures, result.first_problem
            spent = cpu.since(before)
            assert isinstance(spent, CpuUsage), cpu.unknown
            us = sum(spent.seconds.values()) / spent.jobs * 1e6
            costs[cap] = min(us, costs.get(cap, us))
            print(f"{subject.name}, at most {cap}: {us:.0f} CPU-µs a job, {result.throughput:.0f}/s", flush=True)
    return costs


if __name__ == "__main__":
    sys.exit(main())
