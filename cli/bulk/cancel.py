"""`jitney bulk run --cancel`: stops the process of a run and cancels its open jobs.

It finds the jobs by their metadata, so that a killed run can be canceled too.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any, Final

from cli.bulk.errors import CannotRun
from cli.bulk.progress import print_message
from cli.bulk.results.results_journal import is_locked, read_state, write_state
from cli.bulk.results.retry_failed import retry_journal_path
from cli.bulk.service.client import ServiceClient

STOP_TIMEOUT_S: Final = 30.0
CANCEL_CONCURRENCY: Final = 32
OPEN_STATES: Final = ("queued", "running")


async def cancel(journal: Path, url: str | None) -> int:
    """Cancel a run and its retry; return the exit code. Raises CannotRun."""
    state = read_state(journal)
    if state is None:
        raise CannotRun(f"no run has written {journal}")
    await _stop_process(journal, state.pid)
    runs = {}
    for path in (journal, retry_journal_path(journal)):
        if (state := read_state(path)) is not None and state.ended != "finished":
            runs[state.run] = path
    if not runs:
        print_message("the run has finished: nothing to cancel")
        return 0
    count = 0
    if service_url := url or _service_url(journal):
        async with ServiceClient(service_url) as client:
            count = await _cancel_jobs(client, set(runs))
    for path in runs.values():
        if (state := read_state(path)) is not None:
            state.generation += 1  # canceled jobs stay canceled: a resumed run needs new keys
            state.ended = "canceled"
            write_state(path, state)
    print_message(f"canceled the run and {count} jobs; the same command resumes it")
    return 0


def _service_url(journal: Path) -> str | None:
    state = read_state(journal)
    return state.where if state and state.where.startswith(("http://", "https://")) else None


async def _stop_process(journal: Path, pid: int) -> None:
    if not is_locked(journal):
        return
    os.kill(pid, signal.SIGTERM)  # as Ctrl-C would
    for _ in range(int(STOP_TIMEOUT_S * 20)):
        await asyncio.sleep(0.05)
        if not is_locked(journal):
            return
    raise CannotRun(f"process {pid} of the run did not stop within {STOP_TIMEOUT_S:g} s of SIGTERM")


async def _cancel_jobs(client: ServiceClient, runs: set[str]) -> int:
    """Cancel the open jobs of the runs, as far as the service lists jobs; return their number."""
    job_ids, cursor = [], ""
    while True:
        page = (await client.request_or_fail("GET", f"/v1/jobs?limit=100{cursor}")).body
        job_ids += [job["id"] for job in page.get("jobs", ()) if _belongs_to_runs(job, runs)]
        if not page.get("next_cursor"):
            break
        cursor = f"&cursor={page['next_cursor']}"
    canceled = 0
    for start in range(0, len(job_ids), CANCEL_CONCURRENCY):
        some = job_ids[start : start + CANCEL_CONCURRENCY]
        requests = (client.request_or_fail("DELETE", f"/v1/jobs/{job_id}") for job_id in some)
        canceled += sum(response.status == 200 for response in await asyncio.gather(*requests))
    return canceled


def _belongs_to_runs(job: dict[str, Any], runs: set[str]) -> bool:
    return job["status"] in OPEN_STATES and job["metadata"].get("bulk") in runs
