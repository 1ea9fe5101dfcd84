"""`python -m worker.crash_recovery.recover JOURNAL`: returns a dead worker's jobs to the queue at once.

The supervisor runs this after each death of a worker. If it cannot reach Redis, the next worker does it on start,
before it claims any job.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from jobs.config import logs
from jobs.config.settings_base import format_validation_error
from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore
from jobs.store.maintenance import Recovered, recover_dead_worker
from jobs.store.settings import StoreSettings
from worker.crash_recovery.in_flight_journal import delete_journal, read_journal

log = logging.getLogger("jitney.worker")

RETRY_S = 0.5
EX_SUSPECTS_ISOLATED = 10  # the next worker will not die of the same jobs


async def recover_from_journal(store: JobStore, journal: Path) -> Recovered:
    """Recover the jobs of the worker that wrote this journal, then delete it. Raises StoreUnavailable."""
    content = read_journal(journal)
    if content is None:
        return Recovered(0, 0, 0)
    recovered = await recover_dead_worker(store, content.worker, content.claims)
    delete_journal(journal)
    if any(recovered):
        message = "worker %s died: %d jobs are queued again, %d more will run isolated as suspects, %d failed as poison"
        log.warning(message, content.worker, *recovered)
    return recovered


async def recover_with_retries(store: JobStore, journal: Path) -> None:
    """Recover the jobs; retries until Redis is back."""
    while True:
        try:
            await recover_from_journal(store, journal)
        except StoreUnavailable:
            await asyncio.sleep(RETRY_S)
        else:
            return


async def _recover(settings: StoreSettings, journal: Path) -> Recovered:
    connection = RedisClient.of(settings)
    try:
        return await recover_from_journal(JobStore(settings, connection), journal)
    finally:
        await connection.aclose()


def main(argv: Sequence[str] | None = None) -> int:
    """Recover one worker; returns the exit code, EX_SUSPECTS_ISOLATED if possible causes of its death are isolated."""
    parser = argparse.ArgumentParser(
        prog="python -m worker.crash_recovery.recover", description="Return a dead worker's jobs to the queue."
    )
    parser.add_argument("journal", type=Path, help="the worker's in-flight journal")
    args = parser.parse_args(argv)
    logs.set_up("worker", "info", logs.format_of(os.environ))
    logging.getLogger("jitney.jobs").setLevel(logging.ERROR)  # the workers log outages themselves
    try:
        recovered = asyncio.run(_recover(StoreSettings(), args.journal))
    except ValidationError as error:
        sys.stderr.write(f"worker.crash_recovery.recover: {format_validation_error(error)}\n")
        return 1
    except StoreUnavailable as error:
        log.warning(
            "the dead worker's jobs return to the queue when the next worker starts or their leases end: %s", error
        )
        return 1
    return EX_SUSPECTS_ISOLATED if recovered.suspects or recovered.poison else 0


if __name__ == "__main__":
    sys.exit(main())
