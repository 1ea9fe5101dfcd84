"""Mixed load on a whole cluster at production timings, with a kill every 20 s.

Prints what it found: jobs, lost, doubled, stuck, and how long the jobs of each killed part took to be done elsewhere.
"""

import argparse
import asyncio
import random
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.long.faults import kills, verdict
from tests.long.faults.mixed_load import MixedLoad
from tests.support import models
from tests.support.cluster.cluster import Cluster
from tests.support.service import ROOT

# The defaults of a service, where tests are ten times faster; results are kept until they are looked at.
PRODUCTION = {
    "JITNEY_LEASE_S": "20",
    "JITNEY_HEARTBEAT_S": "5",
    "JITNEY_SWEEP_INTERVAL_S": "1.5",
    "JITNEY_METRICS_FLUSH_S": "1",
    "JITNEY_IDLE_POLL_S": "1",
    "JITNEY_MODEL_REFRESH_S": "2",
    "JITNEY_RESULT_TTL_S": "14400",
    "JITNEY_JOB_LIST_LIMIT": "1000",
    "JITNEY_DEFAULT_MODEL": "digits",
}


def main() -> int:
    """Run one soak, or rounds of kills; returns the exit code: 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--every", type=float, default=20, help="seconds between two faults")
    parser.add_argument("--callers", type=int, default=24)
    parser.add_argument("--recovery", type=int, default=0, help="instead: so many rounds of one killed worker")
    parser.add_argument("--machines", type=int, default=0, help="beside them: rounds in which its supervisor dies too")
    parser.add_argument("--appendfsync", choices=("always", "everysec", "no"), default="always")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="jitsoak"))
    shutil.copytree(ROOT / "models" / "digits", folder / "models" / "digits")
    models.slow(folder / "models")
    try:
        with Cluster(folder / "models", PRODUCTION, appendfsync=args.appendfsync) as cluster:
            if args.recovery or args.machines:
                return kills.rounds(cluster, args.recovery, args.machines, args.seed)
            return asyncio.run(soak(cluster, args.minutes * 60, args.every, args.callers, args.seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def soak(cluster: Cluster, seconds: float, interval_s: float, callers: int, seed: int) -> int:
    """Load and kill for some time; then wait for all ends, and judge."""
    stop, before, begun = asyncio.Event(), cluster.footprint(), time.monotonic()
    load = MixedLoad([gateway.port for gateway in cluster.gateways], seed, stop)
    killer = kills.Killer(cluster, random.Random(seed), stop)
    tasks = [asyncio.create_task(load.call(number)) for number in range(callers)]
    tasks.append(asyncio.create_task(killer.run(interval_s)))
    while (left := begun + seconds - time.monotonic()) > 0 and not any(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=min(60, left), return_when=asyncio.FIRST_COMPLETED)
        spent = time.monotonic() - begun
        print(f"{spent / 60:.1f} min: {len(load.accepted)} jobs, {sum(killer.kinds.values())} faults", flush=True)
    stop.set()
    await asyncio.wait(tasks, timeout=90)
    for task in tasks:
        task.result()
    await asyncio.to_thread(cluster.heal, 60)
    return await asyncio.to_thread(verdict.judge, cluster, load, killer, before)


if __name__ == "__main__":
    sys.exit(main())
