"""Compares the stored dead letters of each shard with the expected ones: caps, tenant shares, sums."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from jobs.redis_client import keys
from jobs.store.job_store import JobStore
from tests.long.store_stress.model.ledger import Job, Violation

AGE_SLACK_MS: Final = 20
TIE_MS: Final = 1  # the score of a letter is the ms of its end


class ListedDeadLetter(NamedTuple):
    """A dead letter as `:dead_letters` lists it."""

    id: str
    size: int
    tenant: str
    ended_ms: int


def read(found: Iterable[Sequence[bytes]]) -> dict[str, ListedDeadLetter]:
    """Parse the reply of ZRANGE with scores, by dead letter id."""
    members = {}
    for name, ended_ms in found:
        job_id, size, tenant = name.decode().split(" ")
        members[job_id] = ListedDeadLetter(job_id, int(size), tenant, int(ended_ms))
    return members


class KeptDeadLetters:
    """The content of `:dead_letters` of each shard at the last comparison."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        _, self._ttl_ms, self.most, self.most_bytes = store.retention_args
        self._known: dict[int, dict[str, ListedDeadLetter]] = {}
        self._fresh: dict[int, list[Job]] = {}

    def add(self, job: Job) -> None:
        """Note a job that ended as a dead letter; `compare` must follow before the next script."""
        self._fresh.setdefault(job.shard, []).append(job)

    def is_old(self, ended_ms: float, now_ms: float) -> bool:
        return ended_ms + self._ttl_ms < now_ms + AGE_SLACK_MS

    async def compare(self, jobs: Mapping[str, Job], now_ms: float) -> int:
        """Compare each shard with new dead letters: the evicted ones and the need for it; return their number."""
        fresh, self._fresh = self._fresh, {}
        made_room = 0
        for shard, some in fresh.items():
            words = ("ZRANGE", keys.dead_letters(shard), 0, -1, "WITHSCORES")
            found = read(await self._store.connection.command(*words))
            made_room += self._compare(jobs, some, self._known.get(shard, {}), found, now_ms)
            self._known[shard] = found
        return made_room

    def _compare(
        self,
        jobs: Mapping[str, Job],
        fresh: Sequence[Job],
        before: Mapping[str, ListedDeadLetter],
        found: Mapping[str, ListedDeadLetter],
        now_ms: float,
    ) -> int:
        mine = {
            job.id: ListedDeadLetter(job.id, len(job.sub.input), job.sub.tenant, job.finished_us // 1000)
            for job in fresh
        }
        wanted = {**before, **mine}
        strange = [one for job_id, one in found.items() if wanted.get(job_id) != one]
        if strange:
            raise Violation(f"{strange[0]} is kept as a dead letter, and it is {wanted.get(strange[0].id)}")
        gone = [one for job_id, one in wanted.items() if job_id not in found]
        old = [one for one in gone if self.is_old(one.ended_ms, now_ms)]
        purged = [one for one in gone if jobs[one.id].is_purged]
        lost = [one for one in gone if one not in old and one not in purged]
        for one in gone:
            jobs[one.id].is_forgotten = True
        self._check_need(wanted, lost)
        for tenant in {one.tenant for one in lost if one.size <= self.most_bytes}:
            kept = [one for one in found.values() if one.tenant == tenant]
            of_tenant = [one for one in lost if one.tenant == tenant and one.size <= self.most_bytes]
            youngest = max(of_tenant, key=lambda one: one.ended_ms)
            if any(one.ended_ms + TIE_MS <= youngest.ended_ms for one in kept):
                raise Violation(f"{youngest} made room, and older letters of {tenant} are kept: {kept}")
            if not any(one.tenant == tenant for one in old):
                of_tenant = [one for one in lost if one.tenant == tenant]  # a letter larger than all the room goes last
                self._check_share(tenant, kept, of_tenant, len({one.tenant for one in wanted.values()}))
        return len(lost)

    def _check_need(self, wanted: Mapping[str, ListedDeadLetter], lost: Sequence[ListedDeadLetter]) -> None:
        total, size = len(wanted), sum(one.size for one in wanted.values())
        if lost and total <= self.most and size <= self.most_bytes:
            raise Violation(f"{lost} made room, and there were {total} dead letters of {size} bytes")

    def _check_share(
        self, tenant: str, kept: Sequence[ListedDeadLetter], lost: Sequence[ListedDeadLetter], tenants: int
    ) -> None:
        """The tenant that holds most is evicted: just before, it had at least its share of number or bytes."""
        has_most = (len(kept) + 1) * tenants >= self.most + 1
        largest = max(one.size for one in lost)
        has_most |= (sum(one.size for one in kept) + largest) * tenants >= self.most_bytes + 1
        if not has_most:
            raise Violation(f"{lost} of {tenant} made room, which has only {kept} beside {tenants - 1} others")

    async def check(self) -> None:
        """Compare lists and counters of each tenant with all dead letters; no cap is exceeded."""
        for shard, root in enumerate(self._store.roots):
            dead, counts, sizes, whole = await self._store.connection.pipeline(
                [
                    ("ZRANGE", keys.dead_letters(shard), 0, -1, "WITHSCORES"),
                    ("ZRANGE", f"{root}:dead_letter_counts", 0, -1, "WITHSCORES"),
                    ("ZRANGE", f"{root}:dead_letter_sizes", 0, -1, "WITHSCORES"),
                    ("GET", keys.dead_letter_bytes(shard)),
                ]
            )
            found = read(dead)
            listed = await self._listed(root, shard)
            by_count, by_size = Counter[str](), Counter[str]()
            for one in found.values():
                by_count[one.tenant] += 1
                by_size[one.tenant] += one.size
            if found != listed:
                raise Violation(f"{root}: the dead letters {found} are listed by tenant as {listed}")
            told = {name.decode(): int(n) for name, n in counts}, {name.decode(): int(n) for name, n in sizes}
            if told != (dict(by_count), dict(by_size)) or int(whole or 0) != by_size.total():
                raise Violation(f"{root}: {by_count}, {by_size} dead letters, counted as {told}, {whole} bytes")
            if len(found) > self.most or by_size.total() > self.most_bytes:
                raise Violation(f"{root}: {by_count} dead letters of {by_size} bytes are too many")

    async def _listed(self, root: str, shard: int) -> dict[str, ListedDeadLetter]:
        names = [
            name.decode() for name in await self._store.connection.command("KEYS", f"{root}:tenant_dead_letters:*")
        ]
        tenants = [name.removeprefix(f"{root}:tenant_dead_letters:") for name in names]
        commands = [("ZRANGE", keys.tenant_dead_letters(shard, tenant), 0, -1, "WITHSCORES") for tenant in tenants]
        answers = await self._store.connection.pipeline(commands) if commands else []
        listed: dict[str, ListedDeadLetter] = {}
        for tenant, answer in zip(tenants, answers, strict=True):
            members = read(answer)
            strange = [one for one in members.values() if one.tenant != tenant]
            if strange:
                raise Violation(f"{root}: {strange} are listed as letters of {tenant}")
            listed |= members
        return listed
