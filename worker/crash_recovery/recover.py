"""`python -m worker.crash_recovery.recover BLACK_BOX`: gives what a dead worker held back to the queue, at once.

Its supervisor calls this after each death. Where it could not (the queue's server was away too), the worker that comes
next does it before it claims anything.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from jobs.config.settings_base import format_validation_error
from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore
from jobs.store.maintenance import Recovered, recover_dead_worker
from jobs.store.settings import StoreSettings
from worker.crash_recovery.in_flight_journal import delete_journal, read_journal

log = logging.getLogger("jitney.worker")

RETRY_S = 0.5
EX_SUSPECTS_ISOLATED = 10  # the supervisor need not fear that the successor dies of the same


async def recover_from_journal(store: JobStore, black_box: Path) -> Recovered:
    """Bury the worker that left this black box behind, if one did. Raises StoreUnavailable; then it stays as it is."""
    left = read_journal(black_box)
    if left is None:
        return Recovered(0, 0, 0)
    buried = await recover_dead_worker(store, left.worker, left.claims)
    delete_journal(black_box)
    if any(buried):
        words = "worker %s is dead: %d jobs went back, %d more are tried apart as suspects, %d failed as poison"
        log.warning(words, left.worker, *buried)
    return buried


async def recover_with_retries(store: JobStore, black_box: Path) -> None:
    """Settle, however long the queue's server is away."""
    while True:
        try:
            await recover_from_journal(store, black_box)
        except StoreUnavailable:
            await asyncio.sleep(RETRY_S)
        else:
            return


async def _recover(settings: StoreSettings, black_box: Path) -> Recovered:
    connection = RedisClient.of(settings)
    try:
        return await recover_from_journal(JobStore(settings, connection), black_box)
    finally:
        await connection.aclose()


def main(argv: Sequence[str] | None = None) -> int:
    """Bury one worker; returns the exit code: EX_EXPLAINED where what it may have died of is set apart now."""
    parser = argparse.ArgumentParser(
        prog="python -m worker.crash_recovery.recover", description="Gives back what a dead worker held."
    )
    parser.add_argument("black_box", type=Path, help="the file that it wrote")
    args = parser.parse_args(argv)
    logging.basicConfig(level="INFO", format="%(asctime)s worker %(levelname)s %(message)s")
    logging.getLogger("jitney.jobs").setLevel(logging.ERROR)  # the workers themselves say how the server is
    try:
        buried = asyncio.run(_recover(StoreSettings(), args.black_box))
    except ValidationError as error:
        sys.stderr.write(f"worker.crash_recovery.recover: {format_validation_error(error)}\n")
        return 1
    except StoreUnavailable as error:
        log.warning("the dead worker's jobs go back when another starts, or their leases end: %s", error)
        return 1
    return EX_SUSPECTS_ISOLATED if buried.suspects or buried.poison else 0


if __name__ == "__main__":
    sys.exit(main())
