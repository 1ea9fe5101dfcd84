"""Replays dead letters as new jobs of the version served now. A dead letter is kept and records its new job."""

import logging
import time
from typing import Final, NamedTuple

from api.gateway.gateway import Gateway
from api.submission.submit import Submitted, submit_admitted, unwrap
from jobs.contract.errors import OverLimit, QueueFull, RetryLater, StoreUnavailable, to_jitney_error
from jobs.store import dead_letters
from jobs.store.admission import admit_replay, check_idempotency_key
from jobs.store.dead_letters import DeadLetter, DeadLetterFilter
from jobs.store.record_pages import Position

log = logging.getLogger("jitney.api")

MAX_REPLAYED: Final = 1000  # dead letters per call
MAX_REPLAY_S: Final = 10.0


class ReplayResult(NamedTuple):
    """The result of one call: counts of dead letters replayed, skipped (already replayed) and refused by code."""

    replayed: int
    skipped: int
    refused: dict[str, int]
    more: bool
    after: Position | None
    stopped: RetryLater | None


async def replay_dead_letter(gateway: Gateway, letter: DeadLetter, idempotency_key: str = "") -> Submitted:
    """Submit one dead letter as a new job; raises Refused or RetryLater."""
    check_idempotency_key(idempotency_key)
    body = await dead_letters.read_input(gateway.store, letter)
    shards, max_ms = gateway.store.settings.shards, gateway.settings.max_deadline_ms
    submission = admit_replay(
        letter, body, gateway.catalog, idempotency_key=idempotency_key, shards=shards, max_deadline_ms=max_ms
    )
    (result,) = await submit_admitted(gateway, [submission])
    submitted = unwrap(result)
    if not submitted.accepted.replayed:
        await dead_letters.mark_replayed(gateway.store, letter.job.id, submitted.accepted.id)
    return submitted


async def replay_dead_letters(
    gateway: Gateway, tenant: str | None, filters: DeadLetterFilter, after: Position | None
) -> ReplayResult:
    """Replay dead letters until the queue is full; raises RetryLater if none could be replayed."""
    begun_s = time.monotonic()
    page = await dead_letters.list_dead_letters(gateway.store, tenant, filters, after, MAX_REPLAYED)
    replayed = skipped = 0
    refused: dict[str, int] = {}
    for position, letter in page.entries:
        if time.monotonic() - begun_s > MAX_REPLAY_S:
            return ReplayResult(replayed, skipped, refused, more=True, after=after, stopped=None)
        try:
            if letter.replayed_as is None:
                await replay_dead_letter(gateway, letter)
                replayed += 1
            else:
                skipped += 1
        except (QueueFull, OverLimit, StoreUnavailable) as stopped:
            if not replayed:
                raise
            return ReplayResult(replayed, skipped, refused, more=True, after=after, stopped=stopped)
        except Exception as failure:
            error = to_jitney_error(failure)
            if error is not failure:
                log.exception("cannot replay dead letter %s", letter.job.id)
            refused[error.code] = refused.get(error.code, 0) + 1
        after = position
    return ReplayResult(replayed, skipped, refused, more=page.after is not None, after=page.after, stopped=None)
