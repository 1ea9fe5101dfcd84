"""Reads large outputs for callers, within a budget of bytes in memory that tenants share."""

from collections.abc import AsyncIterator, Callable

from api.asgi.tenant_budgets import BudgetShare, TenantBudget
from jobs.contract.job import Job
from jobs.store import outputs
from jobs.store.job_store import JobStore
from jobs.store.outputs import OutputGone

PIECES_HELD = 2  # one is being read while another waits to be sent


class OutputStreams:
    """The large outputs that this gateway is sending."""

    def __init__(self, store: JobStore, budget: TenantBudget, limit_bytes: int) -> None:
        """Create the streams. `limit_bytes`: that of the budget; one stream may always have as much."""
        self._store, self._budget = store, budget
        self._largest = min(PIECES_HELD * store.settings.output_chunk_bytes, limit_bytes)

    def hold(self, tenant: str, evict: Callable[[], None] | None) -> BudgetShare:
        """Return an empty share of the budget, see `TenantBudget.hold`."""
        return self._budget.hold(tenant, evict)

    async def open(
        self, tenant: str, job: Job, evict: Callable[[], None] | None
    ) -> tuple[BudgetShare, AsyncIterator[bytes]]:
        """Return a share of the budget and the pieces of an output, of which the first one was read.

        Raises Refused if the output is gone, OverLimit if the budget has no room, StoreUnavailable.
        """
        share = self.hold(tenant, evict)
        try:
            share.grow(min(PIECES_HELD * (job.output_bytes or 0), self._largest))
            pieces = outputs.read_pieces(self._store.connection, job)
            first = await anext(pieces)
        except OutputGone:
            share.resize(0)
            raise self._store.unknown(job.id) from None
        except BaseException:
            share.resize(0)
            raise
        return share, enclose(first, pieces)


async def enclose(head: bytes, pieces: AsyncIterator[bytes], tail: bytes = b"") -> AsyncIterator[bytes]:
    """Yield the pieces between a head and a tail."""
    yield head
    async for piece in pieces:
        yield piece
    if tail:
        yield tail
