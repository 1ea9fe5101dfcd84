"""The memory of gateway, worker and queue over a million jobs (S14)."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from cli.bench.load import closed_loop
from cli.bench.load.connection import Address
from cli.bench.load.submit_modes import Exchange, build_submit_request, submit_and_wait
from cli.bench.load_levels import WAIT, LoadLevel
from tests.support import models
from tests.support.cluster.parts import resident_mib
from tests.support.service import Service

STRETCH_S = 10.0
PARTS = {"gateway": "api", "worker": "worker", "queue": "server"}
SETTLED = 0.2  # of the jobs: what is allocated once is there by then
MOST_GROWTH = 1.05


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        models.perceptron(Path(name))
        with Service(Path(name), {"JITNEY_RESULT_TTL_S": "10"}) as service:
            found = run(service, args.jobs)
    settled = [mib for jobs, mib in found if jobs >= SETTLED * args.jobs]
    growth = {part: settled[-1][part] / settled[0][part] for part in PARTS}
    print("growth since a fifth of them:", ", ".join(f"{part} {ratio:.3f}" for part, ratio in growth.items()))
    return int(max(growth["gateway"], growth["worker"]) > MOST_GROWTH)


def run(service: Service, jobs: int) -> list[tuple[int, dict[str, float]]]:
    """Keep 64 jobs in flight; after each stretch yield the finished jobs and the MiB of each part."""
    address = Address.of(service.url)
    exchange = Exchange(
        1, [build_submit_request(address, "perceptron", "application/octet-stream", bytes(784 * 4))], submit_and_wait
    )
    done, found = 0, []
    while done < jobs:
        result = asyncio.run(closed_loop.measure(address, exchange, LoadLevel(WAIT, 64), STRETCH_S))
        assert not result.failures, result.first_problem
        done += result.in_time
        found.append((done, {part: resident_mib(service.pid(name)) for part, name in PARTS.items()}))
        print(f"{done:9} jobs:", ", ".join(f"{part} {mib:.1f} MiB" for part, mib in found[-1][1].items()), flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
