"""Random interleavings of all scripts of the store, compared with a model.

Prints the figures; exit code 1 with the seed and the step of the first violation. `--episode`: run one episode again.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from typing import Final

from tests.long.store_stress import episode
from tests.long.store_stress.model.checks import summary
from tests.long.store_stress.model.ledger import Violation
from tests.support.servers import ENGINES, Server

OF_EPISODE: Final = 2000
KILL_EVERY: Final = 700


async def stress(server: Server, seed: str, steps: int, kill_every: int) -> tuple[Counter[str], Counter[str]]:
    """Run episodes of 2,000 steps; return the counts of each step and each script."""
    made, calls = Counter[str](), Counter[str]()
    for first in range(0, steps, OF_EPISODE):
        name = f"{seed}:{first // OF_EPISODE}"
        one = await episode.run(server, name, min(OF_EPISODE, steps - first), kill_every=kill_every)
        print(f"{name}: {one.stepped_s:.1f} s", flush=True)
        made.update(one.world.ledger.steps)
        for what, count in one.world.ledger.counts.items():
            made[f"jobs {what.split(':')[-1] if what.startswith('outcomes') else 'submitted'}"] += count
        calls.update(one.world.connection.calls)
    return made, calls


async def again(server: Server, seed: str, steps: int) -> None:
    """Run an episode once more and compare after every step, to find the first that breaks a promise."""
    try:
        await episode.run(server, seed, steps, check_every=1)
    except Violation as error:
        print(f"compared after every step:\n{error}")
    else:
        print("run again with a comparison after every step, the episode held: times play a part")


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", default=str(int(time.time())))
    parser.add_argument("--episode", help="the seed of one episode, as a violation names it")
    parser.add_argument("--once", action="store_true", help="do not run an episode again that broke a promise")
    parser.add_argument("--engine", choices=ENGINES, default="valkey")
    args = parser.parse_args()
    server = Server(args.engine, appendfsync="always")
    begun = time.monotonic()
    print(f"seed {args.seed}", flush=True)
    try:
        if args.episode:
            asyncio.run(again(server, args.episode, OF_EPISODE))
            return 0
        made, calls = asyncio.run(stress(server, args.seed, args.steps, KILL_EVERY))
    except Violation as error:
        print(f"a promise was broken\n{error}")
        if not args.once:
            asyncio.run(again(server, str(error).split("'")[1], OF_EPISODE))
        return 1
    finally:
        server.close()
    took_s = time.monotonic() - begun
    print(f"steps: {summary(made)}")
    print(f"scripts: {summary(calls)}")
    print(
        f"{args.steps} steps in {took_s:.0f} s, {args.steps / took_s:.0f} a second, seed {args.seed}: no promise broken"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
