"""Jobs found by filter: as a brute-force read of all records finds them, in stable and bounded pages."""

import random
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from jobs.contract.job import Outcome
from jobs.contract.lifecycle import FINAL, State
from jobs.redis_client import keys
from jobs.store import job_search, queue_purge
from jobs.store.job_search import OPEN, JobFilter, JobPage, SearchScope, search_jobs
from jobs.store.job_store import JobStore
from jobs.store.record_pages import Position
from jobs.store.settings import StoreSettings
from tests.integration.jobs.conftest import StoreBench
from tests.support import records

TENANTS = ("acme", "bolt", "calm")
VERSIONS = (("m", "1"), ("m", "2"), ("n", "1"))
SCOPE = SearchScope(VERSIONS, TENANTS, 20.0)
DEAD = b'{"code":"inference_failed","message":"m","status":422}'
BAD = b'{"code":"invalid_image","message":"m","status":422}'


async def all_pages(
    store: JobStore, query: JobFilter, limit: int = 7, scope: SearchScope = SCOPE
) -> tuple[list[str], list[JobPage]]:
    """Read all pages of a list; return the ids, and the pages."""
    pages, after = [], None
    while True:
        pages.append(await search_jobs(store, query, scope, after, limit))
        after = pages[-1].after
        if after is None:
            return [job.id for page in pages for job in page.jobs], pages


def brute_force(bench: StoreBench, query: JobFilter) -> list[str]:
    """Find the ids of matching jobs among all records, newest first."""
    found = []
    with bench.server.client() as client:
        for key in client.scan_iter(match="jitney:{s*}:job:*", count=1000):
            job_id = key.decode().rpartition(":")[2]
            record = records.read(client, job_id)
            if "bulk" not in record and matches(query, record):
                found.append((int(record["created_us"]), job_id))
    return [job_id for _, job_id in sorted(found, reverse=True)]


def matches(query: JobFilter, record: Mapping[str, str]) -> bool:
    created_us, metadata = int(record["created_us"]), orjson.loads(record.get("metadata", "{}"))
    words = ("tenant", "model", "version", "lane")
    return (
        all(getattr(query, word) in (None, "", record[word]) for word in words)
        and (not query.states or State(record["state"]) in query.states)
        and query.code in ("", record.get("error_code"))
        and (query.since_us is None or created_us >= query.since_us)
        and (query.until_us is None or created_us < query.until_us)
        and all(metadata.get(name) == value for name, value in query.metadata.items())
    )


async def mixed_jobs(bench: StoreBench) -> list[int]:
    """Make jobs of all tenants, versions, lanes and states; return when they were accepted."""
    dice, accepted = random.Random(7), []
    for nth in range(240):
        model, version = dice.choice(VERSIONS)
        lane, tenant = dice.choice(("interactive", "bulk")), dice.choice(TENANTS)
        metadata = orjson.dumps({"order": str(nth % 5)}) if nth % 3 else b"{}"
        job = bench.job(model=model, version=version, lane=lane, tenant=tenant, metadata=metadata)
        accepted += await bench.take(job)
        if nth % 4 == 0:
            claim = await bench.store.claim(model, version, "w1", 3)
            for job_claimed in claim.jobs[: dice.randint(0, 3)]:
                state, body, dead, after_ms = dice.choice(
                    [
                        (State.SUCCEEDED, b"{}", False, 0),
                        (State.FAILED, DEAD, True, 0),
                        (State.FAILED, BAD, False, 0),
                        (State.QUEUED, DEAD, False, 600_000),
                    ]
                )
                outcome = Outcome(
                    job_claimed.id, job_claimed.attempt, state, body, batch_size=1, dead=dead, after_ms=after_ms
                )
                await bench.store.finish("w1", [outcome])
        if nth % 10 == 3:
            await bench.store.cancel_many([accepted[dice.randrange(len(accepted))].id], None)
    line = bench.job(model="m", tenant="acme", lane="bulk", bulk="c")
    await bench.take(line)
    for each in dice.sample(accepted, 12):
        if await bench.state(each.id) == "queued":
            bench.pass_deadline(each.id)
    await bench.sweep()
    return [each.created_us for each in accepted]


FILTERS: list[dict[str, Any]] = [
    {},
    *({"states": frozenset({state})} for state in State),
    {"states": OPEN},
    {"states": FINAL},
    {"states": frozenset({State.QUEUED, State.FAILED})},
    {"states": OPEN, "model": "m", "version": "2", "lane": "bulk"},
    {"states": frozenset({State.QUEUED}), "model": "n"},
    {"states": frozenset({State.FAILED}), "model": "m"},
    {"code": "inference_failed"},
    {"code": "canceled", "lane": "bulk"},
    {"code": "deadline_exceeded"},
    {"code": "invalid_image", "states": frozenset({State.CANCELED})},
    {"code": "inference_failed", "states": frozenset({State.QUEUED})},
    {"lane": "bulk", "model": "m"},
    {"version": "2"},
    {"metadata": {"order": "3"}},
    {"metadata": {"order": "3"}, "states": OPEN},
    {"model": "nobody"},
]


async def test_each_filter_finds_what_a_read_of_all_records_finds(bench: StoreBench) -> None:
    times = await mixed_jobs(bench)
    middle = sorted(times)[len(times) // 2]
    for fields in FILTERS:
        for since_us, until_us in ((None, None), (middle, None), (None, middle)):
            for tenant in (None, "acme"):
                query = JobFilter(tenant, **fields, since_us=since_us, until_us=until_us)
                found, _ = await all_pages(bench.store, query)
                assert found == brute_force(bench, query), query


async def test_the_jobs_of_several_shards_are_merged(bench: StoreBench) -> None:
    settings = StoreSettings(redis_url=bench.server.url, shards=3)
    bench.store = JobStore(settings, bench.store.connection)
    for nth in range(60):
        await bench.take(bench.job(shard=nth % 3, tenant=TENANTS[nth % 2]))
    ended = (await bench.store.claim("m", "1", "w1", 20)).jobs
    await bench.store.finish("w1", bench.succeed(ended[:7]))
    await bench.store.cancel_many([job.id for job in ended[7:12]], None)
    for states in (frozenset[State](), OPEN, *(frozenset({state}) for state in State)):
        query = JobFilter(None, states)
        assert (await all_pages(bench.store, query))[0] == brute_force(bench, query), states


async def test_a_cursor_is_stable_while_jobs_come_and_go(bench: StoreBench) -> None:
    """Each job that is there all the time is listed once, whatever is submitted, claimed and ended in between."""
    ids = await bench.submit(50)
    query, found, after = JobFilter("default", OPEN), list[str](), None
    while True:
        page = await search_jobs(bench.store, query, SCOPE, after, 6)
        found += [job.id for job in page.jobs]
        await bench.submit(5)
        claimed = await bench.claim(3)
        await bench.store.finish("w1", bench.succeed(claimed[:1]))
        if (after := page.after) is None:
            break
    ended = {job_id for job_id in ids if await bench.state(job_id) == "succeeded"}
    assert len(found) == len(set(found))
    assert set(ids) - ended <= set(found) <= set(ids)


async def test_a_page_reads_a_bounded_number_of_records_and_says_how_far_it_looked(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_search, "MAX_SCANNED", 100)
    (oldest,) = await bench.submit(model="n")
    await bench.submit(350)
    query = JobFilter("default", model="n")
    found, pages = await all_pages(bench.store, query, limit=5)
    assert found == [oldest]
    assert len(pages) in {3, 4}
    assert all(100 <= page.scanned <= 200 for page in pages[:-1])
    first = pages[0]
    assert first.after is not None
    assert first.scanned_to_us == first.after.time
    assert sum(page.scanned for page in pages) == 351


async def test_a_page_ends_early_when_its_time_is_over(bench: StoreBench) -> None:
    await bench.submit(150)
    page = await search_jobs(bench.store, JobFilter("default", model="n"), SCOPE, None, 5, is_over=lambda: True)
    assert (page.jobs, 0 < page.scanned < 150, page.after is not None) == ([], True, True)


async def test_records_that_have_expired_leave_the_lists(bench: StoreBench) -> None:
    kept, failed, canceled = await bench.submit(3)
    claimed = {job.id: job for job in await bench.claim(2)}
    assert set(claimed) == {kept, failed}
    await bench.store.finish("w1", [Outcome(failed, 1, State.FAILED, BAD), *bench.succeed([claimed[kept]])])
    await bench.store.cancel(canceled, "default")
    with bench.server.client() as client:
        client.delete(keys.job(failed))
        query = JobFilter("default", frozenset({State.FAILED, State.CANCELED}))
        assert (await all_pages(bench.store, query))[0] == [canceled]
        assert client.zcard(keys.unsuccessful(0, "default")) == 1
        assert (await all_pages(bench.store, JobFilter("default", model="m")))[0] == [canceled, kept]
        assert client.zcard(keys.tenant_jobs(0, "default")) == 2


async def test_the_list_of_jobs_that_did_not_succeed_is_bounded_and_expires(bench: StoreBench) -> None:
    with bench.server.client() as client:
        listed = keys.unsuccessful(0, "default")
        client.zadd(listed, {f"00{nth:032x} failed x m 1 bulk": nth for nth in range(10_000)})
        ids = await bench.submit(3)
        await bench.store.cancel_many(ids, "default")
        assert client.zcard(listed) == 10_000
        assert 0 < client.pttl(listed) <= bench.store.dead_ttl_ms
        client.delete(listed)


async def test_a_job_that_succeeds_writes_no_list(bench: StoreBench) -> None:
    await bench.submit(3)
    await bench.store.finish("w1", bench.succeed(await bench.claim()))
    with bench.server.client() as client:
        assert client.exists(keys.unsuccessful(0, "default")) == 0


# ---- cancel many


async def test_many_are_canceled_in_the_state_that_was_asked_for(bench: StoreBench) -> None:
    ids = await bench.submit(60)
    running = [job.id for job in await bench.claim(5)]
    (foreign,) = await bench.submit(tenant="acme")
    answers = await bench.store.cancel_many([*ids, foreign, "00" + "0" * 32], "default", "queued")
    assert [answers.count(word) for word in ("canceled", "other", "unknown")] == [55, 5, 2]
    states = {job_id: await bench.state(job_id) for job_id in ids}
    assert {job_id for job_id, state in states.items() if state == "running"} == set(running)
    assert set(states.values()) == {"running", "canceled"}
    assert await bench.store.cancel_many([ids[-1], running[0]], "default") == ["final", "canceled"]
    assert await bench.store.cancel_many([foreign], None) == ["canceled"]


async def test_a_queue_is_emptied_with_the_lines_of_batches_and_suspects(bench: StoreBench) -> None:
    await bench.submit(130, tenant="acme")
    await bench.submit(30, tenant="bolt", lane="bulk")
    other = (await bench.submit(model="n"))[0]
    query = JobFilter(None, frozenset({State.QUEUED}), "m", lane="bulk")
    assert await queue_purge.purge_queue(bench.store, query, SCOPE, None, 1000, max_s=60) == (30, None)
    query = query._replace(lane="")
    canceled, after = await queue_purge.purge_queue(bench.store, query, SCOPE, None, 100, max_s=60)
    assert (canceled, isinstance(after, Position)) == (100, True)
    assert await queue_purge.purge_queue(bench.store, query, SCOPE, after, 1000, max_s=60) == (30, None)
    assert sum((await bench.store.depth("m", "1")).values()) == 0
    assert await bench.state(other) == "queued"
