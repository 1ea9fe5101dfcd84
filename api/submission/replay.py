"""Sends dead letters again: each as a new job for the version that is served now. The letter stays, and names it."""

import logging
import time
from typing import Final, NamedTuple

from api.gateway.gateway import Gateway
from api.submission.submit import Taken, submit, sure
from jobs.contract.errors import NotNow, OverLimit, QueueFull, StoreUnavailable, contain
from jobs.store import dead_letters
from jobs.store.admission import admit_again, check_key
from jobs.store.dead_letters import Letter, Place, Wanted

log = logging.getLogger("jitney.api")

MANY: Final = 1000  # letters of one call
LONGEST_S: Final = 10.0


class Replays(NamedTuple):
    """What one call did: letters sent again, those that were before, those refused by code; and where to go on."""

    replayed: int
    skipped: int
    refused: dict[str, int]
    more: bool
    after: Place | None
    stopped: NotNow | None


async def replay(gateway: Gateway, letter: Letter, idempotency_key: str = "") -> Taken:
    """Send one letter again; raises Refused and NotNow."""
    check_key(idempotency_key)
    body = await dead_letters.read_input(gateway.store, letter)
    submission = admit_again(
        letter,
        body,
        gateway.catalogue,
        idempotency_key=idempotency_key,
        shards=gateway.store.settings.shards,
        max_deadline_ms=gateway.settings.max_deadline_ms,
    )
    (one,) = await submit(gateway, [submission])
    taken = sure(one)
    if not taken.accepted.replayed:
        await dead_letters.note_replay(gateway.store, letter.job.id, taken.accepted.id)
    return taken


async def replay_many(gateway: Gateway, tenant: str | None, wanted: Wanted, after: Place | None) -> Replays:
    """Send letters again that were not before, until the queue is full; raises NotNow where nothing could be done."""
    begun_s = time.monotonic()
    page = await dead_letters.page(gateway.store, tenant, wanted, after, MANY)
    replayed = skipped = 0
    refused: dict[str, int] = {}
    for place, letter in page.letters:
        if time.monotonic() - begun_s > LONGEST_S:
            return Replays(replayed, skipped, refused, more=True, after=after, stopped=None)
        try:
            if letter.replayed_as is None:
                await replay(gateway, letter)
                replayed += 1
            else:
                skipped += 1
        except (QueueFull, OverLimit, StoreUnavailable) as stopped:
            if not replayed:
                raise
            return Replays(replayed, skipped, refused, more=True, after=after, stopped=stopped)
        except Exception as failure:
            error = contain(failure)
            if error is not failure:
                log.exception("dead letter %s cannot be sent again", letter.job.id)
            refused[error.code] = refused.get(error.code, 0) + 1
        after = place
    return Replays(replayed, skipped, refused, more=page.after is not None, after=page.after, stopped=None)
