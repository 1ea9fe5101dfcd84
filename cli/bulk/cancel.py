"""`--cancel`: stops the process that runs, and cancels those jobs of the run that have not ended.

Jobs are found by their metadata, so that a run that was killed can be canceled too.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

from cli.bulk.errors import CannotRun
from cli.bulk.progress import print_message
from cli.bulk.results.results_journal import is_locked, read_state, write_state
from cli.bulk.results.retry_failed import retry_journal_path
from cli.bulk.run import send_stop_signal
from cli.bulk.service.client import ServiceClient

STOP_TIMEOUT_S: Final = 30.0
CANCEL_CONCURRENCY: Final = 32
OPEN_STATES: Final = ("queued", "running")


async def cancel(journal: Path, url: str | None) -> int:
    """Returns the exit code; raises CannotRun."""
    state = read_state(journal)
    if state is None:
        raise CannotRun(f"there is no run of {journal}")
    await _stop_process(journal, state.pid)
    runs = {}
    for one in (journal, retry_journal_path(journal)):
        if (state := read_state(one)) is not None and state.ended != "finished":
            runs[state.run] = one
    if not runs:
        print_message("the run had finished: there is nothing to cancel")
        return 0
    count = 0
    if state_url := url or _service_url(journal):
        async with ServiceClient(state_url) as client:
            count = await _cancel_jobs(client, set(runs))
    for one in runs.values():
        if (state := read_state(one)) is not None:
            state.generation += 1  # what was canceled stays so: the next jobs have other keys
            state.ended = "canceled"
            write_state(one, state)
    print_message(f"canceled, {count} jobs with it; the same command goes on where it was")
    return 0


def _service_url(journal: Path) -> str | None:
    state = read_state(journal)
    return state.where if state and state.where.startswith(("http://", "https://")) else None


async def _stop_process(journal: Path, pid: int) -> None:
    if not is_locked(journal):
        return
    send_stop_signal(pid)
    for _ in range(int(STOP_TIMEOUT_S * 20)):
        await asyncio.sleep(0.05)
        if not is_locked(journal):
            return
    raise CannotRun(f"process {pid} runs it, and did not stop within {STOP_TIMEOUT_S:g} s of being told to")


async def _cancel_jobs(client: ServiceClient, runs: set[str]) -> int:
    """Look through the newest jobs, as far as they are listed; gives how many were canceled."""
    found, cursor = [], ""
    while True:
        page = (await client.request_or_fail("GET", f"/v1/jobs?limit=100{cursor}")).body
        found += [job["id"] for job in page.get("jobs", ()) if _belongs_to_runs(job, runs)]
        if not page.get("next_cursor"):
            break
        cursor = f"&cursor={page['next_cursor']}"
    canceled = 0
    for at in range(0, len(found), CANCEL_CONCURRENCY):
        asked = (
            client.request_or_fail("DELETE", f"/v1/jobs/{job_id}") for job_id in found[at : at + CANCEL_CONCURRENCY]
        )
        canceled += sum(answer.status == 200 for answer in await asyncio.gather(*asked))
    return canceled


def _belongs_to_runs(job: dict[str, Any], runs: set[str]) -> bool:
    return job["status"] in OPEN_STATES and job["metadata"].get("bulk") in runs
