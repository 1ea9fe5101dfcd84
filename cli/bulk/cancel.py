"""`--cancel`: stops the process that runs, and cancels those jobs of the run that have not ended.

Jobs are found by their metadata, so that a run that was killed can be canceled too.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

from cli.bulk.errors import CannotRun
from cli.bulk.progress import say
from cli.bulk.results.results_journal import is_held, read_state, write_state
from cli.bulk.results.retry_failed import retry_of
from cli.bulk.run import tell_to_stop
from cli.bulk.service.client import Client

PATIENCE_S: Final = 30.0
TOGETHER: Final = 32
OPEN: Final = ("queued", "running")


async def cancel(journal: Path, url: str | None) -> int:
    """Returns the exit code; raises CannotRun."""
    state = read_state(journal)
    if state is None:
        raise CannotRun(f"there is no run of {journal}")
    await _stop(journal, state.pid)
    runs = {}
    for one in (journal, retry_of(journal)):
        if (state := read_state(one)) is not None and state.ended != "finished":
            runs[state.run] = one
    if not runs:
        say("the run had finished: there is nothing to cancel")
        return 0
    count = 0
    if state_url := url or _url(journal):
        async with Client(state_url) as client:
            count = await _cancel_jobs(client, set(runs))
    for one in runs.values():
        if (state := read_state(one)) is not None:
            state.generation += 1  # what was canceled stays so: the next jobs have other keys
            state.ended = "canceled"
            write_state(one, state)
    say(f"canceled, {count} jobs with it; the same command goes on where it was")
    return 0


def _url(journal: Path) -> str | None:
    state = read_state(journal)
    return state.where if state and state.where.startswith(("http://", "https://")) else None


async def _stop(journal: Path, pid: int) -> None:
    if not is_held(journal):
        return
    tell_to_stop(pid)
    for _ in range(int(PATIENCE_S * 20)):
        await asyncio.sleep(0.05)
        if not is_held(journal):
            return
    raise CannotRun(f"process {pid} runs it, and did not stop within {PATIENCE_S:g} s of being told to")


async def _cancel_jobs(client: Client, runs: set[str]) -> int:
    """Look through the newest jobs, as far as they are listed; gives how many were canceled."""
    found, cursor = [], ""
    while True:
        page = (await client.ask_now("GET", f"/v1/jobs?limit=100{cursor}")).body
        found += [job["id"] for job in page.get("jobs", ()) if _is_ours(job, runs)]
        if not page.get("next_cursor"):
            break
        cursor = f"&cursor={page['next_cursor']}"
    canceled = 0
    for at in range(0, len(found), TOGETHER):
        asked = (client.ask_now("DELETE", f"/v1/jobs/{job_id}") for job_id in found[at : at + TOGETHER])
        canceled += sum(answer.status == 200 for answer in await asyncio.gather(*asked))
    return canceled


def _is_ours(job: dict[str, Any], runs: set[str]) -> bool:
    return job["status"] in OPEN and job["metadata"].get("bulk") in runs
