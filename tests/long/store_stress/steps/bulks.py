"""Steps of callers with bulk jobs and files: upload, delete, create a bulk job, cancel it."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from jobs.bulk import files, records
from jobs.bulk.checkpoints import BulkSnapshot, ResultPart
from jobs.bulk.files import File
from jobs.bulk.records import Bulk, BulkRequest
from jobs.contract.errors import OverLimit, Refused
from jobs.contract.job import Submission
from jobs.redis_client import keys
from jobs.store.background_lease import BackgroundLease
from tests.long.store_stress.model.ledger import Violation
from tests.long.store_stress.model.world import TENANTS, World, now_ms
from tests.long.store_stress.steps.submitting import BULK_HOOKS

FAR_MS: Final = 1 << 50


class MemoryStorage:
    """Storage in memory: results of bulks by their place."""

    buffer_bytes = 0

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[int, str]]] = {}

    async def write(self, key: str, blocks: AsyncIterator[bytes]) -> int:
        raise NotImplementedError

    def read(self, key: str, offset: int = 0) -> AsyncGenerator[bytes]:
        raise NotImplementedError

    async def remove(self, prefix: str) -> None:
        for place in [one for one in self.parts if one.startswith(prefix)]:
            del self.parts[place]


@dataclass(slots=True)
class KnownBulk:
    """A bulk job as its creator knows it. `lines`: by number, whether the line is valid."""

    id: str
    tenant: str
    lines: dict[int, bool]
    webhook: str
    lease: int = 0
    flight_until_ms: float = 0  # until then at least its last flight is under way
    lost_by_ms: float = 0  # by then its last step is landed or lost, and the next dispatch sees that; 0: it has seen it
    due_by_ms: float = 0  # its next step is due then at the latest
    rests_until_ms: float = 0  # after an unexpected fault, no step before
    faults: int = 0  # in a row, as far as is known for certain
    most_faults: int = 0  # and as many as there may have been
    most_losses: int = 0  # steps in a row of which nothing was heard, as many as there may have been
    landed: int = 0  # number of the last flight that has ended for certain
    is_closed: bool = False
    is_cancelled: bool = False

    @property
    def shard(self) -> int:
        return int(self.id[:2])


@dataclass(slots=True, eq=False)
class BulkStepper:
    """One process that advances a bulk job, and the state it has read."""

    lease: BackgroundLease
    known: KnownBulk
    stand: BulkSnapshot | None = None
    found: list[bytes] = field(default_factory=list)  # outcomes read and stored, whose checkpoint is not yet written
    part: ResultPart | None = None
    lines: list[int] = field(default_factory=list)  # taken, whose checkpoint is not yet written
    jobs: list[Submission] = field(default_factory=list)  # those of them that are to run
    next: str = "begin"


class Bulks:
    """All bulks and files of an episode."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, dict[int, bool]]] = {}  # id → tenant, lines
        self.known: dict[str, KnownBulk] = {}
        self.courses: list[BulkStepper] = []
        self.passed: Counter[tuple[str, str]] = Counter()  # steps of others begun while a tenant's was due, by root
        self.storage = MemoryStorage()
        self.dropped: set[str] = set()  # files that may be gone
        self.unheard: set[str] = set()  # files over which there may be a bulk that nobody heard of

    async def may_be(self, world: World, bulk_id: str) -> Bulk | None:
        """Read a bulk job of an unanswered request; None where it cannot exist."""
        bulk = records.parse_bulk(bulk_id, await world.connection.command("HGETALL", keys.bulk(bulk_id)))
        return bulk if bulk is not None and bulk.file in self.unheard else None


async def upload(world: World, bulks: Bulks) -> None:
    """Announce a file, store its content, and note it; refused where its tenant has as many as it may.

    The process may die in between, or its note be lost: a sweep must find the content.
    """
    shard, tenant = world.rng.randrange(world.settings.shards), world.rng.choice(TENANTS)
    file = File(
        files.new_file_id(shard), tenant, "lines", "batch", 7, 0, FAR_MS if world.chance(0.8) else int(now_ms())
    )
    await files.register_upload(world.store, file.id, 60)
    bulks.storage.parts[files.content_key(file.id)] = []
    if world.chance(0.1):
        return
    refusal = ""

    async def made() -> bool:
        nonlocal refusal
        try:
            await files.add_file(world.store, world.bulk, file)
        except OverLimit as error:
            refusal = error.code
        return True

    answer, _, fate = await world.call(made)
    if refusal:
        kept = sum(whose == tenant and files.shard_of(one) == shard for one, (whose, _) in bulks.files.items())
        kept += 2 * sum(one.tenant == tenant for one in bulks.known.values())
        if kept < world.bulk.bulk_files:
            raise Violation(f"{kept} files of {tenant} are kept, and one was refused")
        await world.call(lambda: files.discard_upload(world.store, bulks.storage, file.id))
    elif answer is not None or (fate == "lost" and await _is_there(world, tenant, file.id)):
        count = world.rng.randint(1, 12)
        bulks.files[file.id] = tenant, {number: world.chance(0.85) for number in range(1, count + 1)}


async def open_bulk(world: World, bulks: Bulks) -> None:
    """Create a bulk job over a file; a retry after a lost answer finds it."""
    if not bulks.files:
        return
    file = world.pick(bulks.files)
    tenant, lines = bulks.files[file]
    webhook = world.rng.choice(BULK_HOOKS) if world.chance(0.3) else ""
    window_ms = world.rng.choice([120, 60_000, 60_000])
    key = f"{world.rng.getrandbits(60):x}"
    asked = BulkRequest(file, "/v1/jobs", "24h", window_ms, b"{}", webhook, "", key, False, 0)
    try:
        made = await _ask(world, bulks, tenant, asked) or await _ask(world, bulks, tenant, asked._replace(again=True))
    except Refused as error:
        if error.code != "file_not_found" or file not in bulks.dropped:
            raise Violation(f"{error.code}, and nobody deleted {file}") from error
        bulks.files.pop(file, None)
    except OverLimit:
        return
    else:
        if made is not None:
            bulks.known.setdefault(made.id, KnownBulk(made.id, tenant, lines, webhook))


async def _ask(world: World, bulks: Bulks, tenant: str, asked: BulkRequest) -> Bulk | None:
    """Request a bulk job; None: the answer was lost, and the job may exist."""
    made: Bulk | None
    made, _, fate = await world.call(lambda: records.create_bulk(world.store, world.bulk, tenant, asked, int(now_ms())))
    if made is None and fate != "unsent":
        bulks.unheard.add(asked.file)
    return made


async def drop(world: World, bulks: Bulks) -> None:
    """Delete a file; not one that an open bulk reads."""
    if not bulks.files:
        return
    file = world.pick(bulks.files)
    tenant, lines = bulks.files[file]
    refusal = ""

    async def made() -> bool:
        nonlocal refusal
        try:
            await files.delete_file(world.store, bulks.storage, tenant, file)
        except Refused as error:
            refusal = error.code
        return True

    await world.call(made)
    is_used = any(one.lines is lines and not one.is_closed for one in bulks.known.values())
    if refusal == "file_in_use":
        if not is_used and file not in bulks.unheard:
            raise Violation(f"{file} cannot be deleted, and no open bulk reads it")
    elif refusal == "":
        bulks.dropped.add(file)
        if is_used and not await _is_there(world, tenant, file):
            raise Violation(f"{file} was deleted in use")


async def _is_there(world: World, tenant: str, file: str) -> bool:
    try:
        await files.get_file(world.store, tenant, file)
    except Refused:
        return False
    return True


async def sweep_files(world: World, bulks: Bulks) -> None:
    """Remove what has expired."""
    bulks.dropped.update(bulks.files)  # whichever has expired; those that have not are found again
    await world.call(lambda: files.remove_expired(world.store, bulks.storage, int(now_ms())))


async def cancel(world: World, bulks: Bulks) -> None:
    """Cancel a bulk, now and then another tenant's."""
    if not bulks.known:
        return
    known = bulks.known[world.pick(bulks.known)]
    tenant = known.tenant if world.chance(0.9) else world.rng.choice(TENANTS)
    refusal = ""

    async def made() -> Bulk | None:
        nonlocal refusal
        try:
            return await records.cancel_bulk(world.store, tenant, records.WIRE_ID_PREFIX + known.id)
        except Refused as error:
            refusal = error.code
            return None

    answer, _, _ = await world.call(made)
    if tenant != known.tenant and answer is not None:
        raise Violation(f"{tenant} cancelled {known}")
    if tenant == known.tenant and refusal and not known.is_closed:
        raise Violation(f"cancel gave {refusal}, and the bulk is open: {known}")


async def check_contents(world: World, bulks: Bulks) -> None:
    """Check that a sweep can find all stored uploads."""
    found: set[str] = set()
    for shard in range(world.settings.shards):
        found |= {name.decode() for name in await world.connection.command("ZRANGE", keys.expiring_files(shard), 0, -1)}
    stored = {place.partition("/")[2] for place in bulks.storage.parts if place.startswith("files/")}
    if not stored <= found:
        raise Violation(f"the contents of {stored - found} are stored, and no sweep will find them")


async def sweep_all(world: World, bulks: Bulks) -> None:
    """Expire everything: no content and no record is left."""
    while await files.remove_expired(world.store, bulks.storage, FAR_MS + 1):
        pass
    await check_contents(world, bulks)
    left = await world.connection.command("KEYS", "jitney:*:expiring_files")
    stored = [place for place in bulks.storage.parts if place.startswith("files/")]
    if left or stored:
        raise Violation(f"after everything has expired, {left} is there, and {stored} is stored")
