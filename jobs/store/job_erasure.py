"""Erases all data of a job that has ended, before it expires: record, output, dead letter, deliveries, events."""

from typing import Final

from jobs.contract.errors import Refused
from jobs.contract.ids import shard_of
from jobs.redis_client import keys
from jobs.store.job_store import JobStore

EVENTS_BATCH: Final = 500  # entries of the tenant's event log per read


async def erase_job(store: JobStore, job_id: str, tenant: str | None) -> None:
    """Erase a job that has ended. Raises Refused if it is open, or not this tenant's (None: any tenant)."""
    shard = shard_of(job_id)
    if shard >= store.settings.shards:
        raise store.unknown(job_id)
    if tenant is None:
        (job,) = await store.read([job_id])
        owner = job.tenant if job else ""
    else:
        owner = tenant
    answer = await store.run("job/purge", store.roots[shard], job_id, tenant or "", *store.retention_args)
    if answer == b"unknown":
        raise store.unknown(job_id)
    if answer == b"open":
        raise Refused("job_not_final", f"job {job_id} has not ended: cancel it before its data is erased")
    await _erase_events(store, job_id, owner)


async def _erase_events(store: JobStore, job_id: str, tenant: str) -> None:
    """Delete the events of a job from its tenant's log, which is capped."""
    log, first = keys.job_events(shard_of(job_id), tenant), "-"
    while True:
        entries = await store.connection.command("XRANGE", log, first, "+", "COUNT", EVENTS_BATCH)
        if own := [entry_id for entry_id, fields in entries if job_id.encode() in fields]:
            await store.connection.command("XDEL", log, *own)
        if len(entries) < EVENTS_BATCH:
            return
        first = f"({entries[-1][0].decode()}"
