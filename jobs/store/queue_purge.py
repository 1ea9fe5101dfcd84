"""Purges a queue: cancels the jobs that wait in it, lines of bulk jobs too."""

import time
from collections.abc import Sequence

from jobs.store.job_search import JobFilter, SearchScope, filter_by_head, open_lists
from jobs.store.job_store import READ_BATCH, JobStore
from jobs.store.merged_lists import Listed
from jobs.store.record_pages import Position


async def purge_queue(
    store: JobStore, query: JobFilter, scope: SearchScope, after: Position | None, limit: int, *, max_s: float
) -> tuple[int, Position | None]:
    """Cancel queued jobs, lines of batches too; return how many, and the position to go on from (None: done).

    It ends after about `limit` jobs or `max_s` seconds.
    """
    lists = await open_lists(store, query, scope, after)
    ends_at, canceled = time.monotonic() + max_s, 0
    while canceled < limit and time.monotonic() < ends_at:
        found = await lists.take(READ_BATCH)
        ids = [each.position.id for each in await _without_other_suspects(store, query, found)]
        canceled += (await store.cancel_many(ids, query.tenant, "queued")).count("canceled") if ids else 0
        if len(found) < READ_BATCH:
            return canceled, None
        after = found[-1].position
    return canceled, after


async def _without_other_suspects(store: JobStore, query: JobFilter, found: Sequence[Listed]) -> Sequence[Listed]:
    """Leave out suspects that do not match: one queue has those of all lanes and tenants."""
    suspects = [each for each in found if ":suspect:" in each.key]
    if not suspects:
        return found
    matching = await filter_by_head(store, query, suspects)
    return [each for each in found if each in matching or each not in suspects]
