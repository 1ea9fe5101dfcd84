"""Dead letters in the store: paging, filters, and only true dead letters."""

from typing import Any

import pytest

from jobs.contract.errors import Refused
from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from jobs.store import dead_letters, record_pages
from jobs.store.dead_letters import DeadLetterFilter
from jobs.store.job_store import JobStore
from jobs.store.record_pages import Position
from tests.integration.jobs.conftest import StoreBench

ALL = DeadLetterFilter()


async def die(
    bench: StoreBench, count: int = 1, code: str = "inference_failed", model: str = "m", **fields: Any
) -> list[str]:
    """Make dead letters; gives their ids, oldest first."""
    ids = await bench.submit(count, model=model, **fields)
    body = b'{"code":"%s","message":"m","status":422}' % code.encode()
    claims = (await bench.store.claim(model, "1", "w1", count)).jobs
    await bench.store.finish("w1", [Outcome(job.id, job.attempt, State.FAILED, body, dead=True) for job in claims])
    return ids


async def found(
    store: JobStore, wanted: DeadLetterFilter, limit: int = 100, tenant: str | None = "default"
) -> set[str]:
    """Go through all pages; each letter comes once."""
    ids: list[str] = []
    after: Position | None = None
    while True:
        page = await dead_letters.list_dead_letters(store, tenant, wanted, after, limit)
        assert len(page.records) <= limit
        ids += [letter.job.id for letter in page.records]
        if page.after is None:
            assert len(set(ids)) == len(ids)
            return set(ids)
        after = page.after


def at(bench: StoreBench, job_id: str, ended_ms: int) -> None:
    with bench.server.client() as client:
        for key in ("dead_letters", "tenant_dead_letters:default"):
            client.zadd(f"jitney:{{s00}}:{key}", {f"{job_id} 2 default": ended_ms})


async def test_the_first_page_holds_the_newest_and_the_next_continues(bench: StoreBench) -> None:
    ids = await die(bench, 5)
    for nth, job_id in enumerate(ids):
        at(bench, job_id, 1000 + nth)
    first = await dead_letters.list_dead_letters(bench.store, "default", ALL, None, 2)
    assert [letter.job.id for letter in first.records] == ids[:2:-1]
    assert first.after == Position(1003, ids[3])
    second = await dead_letters.list_dead_letters(bench.store, "default", ALL, first.after, 3)
    assert [letter.job.id for letter in second.records] == ids[2::-1]


@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
async def test_dead_letters_of_the_same_instant_are_each_listed_once(bench: StoreBench, limit: int) -> None:
    ids = await die(bench, 250)  # one write: they all end in the same ms
    assert await found(bench.store, ALL, limit) == set(ids)


async def test_filters(bench: StoreBench) -> None:
    a = await die(bench, model="a")
    b = await die(bench, model="b")
    killer = await die(bench, model="b", code="poison")
    for nth, (job_id,) in enumerate((a, b, killer)):
        at(bench, job_id, 1000 + nth)
    await dead_letters.mark_replayed(bench.store, b[0], "00" + "0" * 32)
    for wanted, ids in (
        (DeadLetterFilter(model="a"), a),
        (DeadLetterFilter(model="b"), b + killer),
        (DeadLetterFilter(model="b", code="poison"), killer),
        (DeadLetterFilter(code="resource_exhausted"), []),
        (DeadLetterFilter(since_ms=1001), b + killer),
        (DeadLetterFilter(until_ms=1001), a),
        (DeadLetterFilter(since_ms=1001, until_ms=1002), b),
        (DeadLetterFilter(replayed=True), b),
        (DeadLetterFilter(replayed=False), a + killer),
    ):
        assert await found(bench.store, wanted, 1) == set(ids), wanted


async def test_an_empty_page_among_many_has_a_cursor(bench: StoreBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_pages, "MAX_SCANNED", record_pages.MAX_READ)
    (oldest,) = await die(bench, model="a")
    at(bench, oldest, 1)
    await die(bench, 150)
    page = await dead_letters.list_dead_letters(bench.store, "default", DeadLetterFilter(model="a"), None, 10)
    assert page.records == []
    assert page.after is not None
    assert await found(bench.store, DeadLetterFilter(model="a")) == {oldest}


async def test_a_dead_letter_shows_its_replay(bench: StoreBench) -> None:
    (job_id,) = await die(bench, input=b"exactly this", parameters=b'{"top_k":1}')
    letter = await dead_letters.get_dead_letter(bench.store, "default", job_id)
    assert (letter.input_bytes, letter.kind, letter.parameters) == (12, "raw", b'{"top_k":1}')
    assert (letter.kills, letter.losses, letter.retries, letter.replayed_as) == (0, 0, 0, None)
    assert (letter.code, letter.job.state) == ("inference_failed", State.FAILED)
    assert await dead_letters.read_input(bench.store, letter) == b"exactly this"
    assert await dead_letters.count_dead_letters(bench.store) == (1, 12)


async def test_a_job_that_is_no_dead_letter_is_unknown(bench: StoreBench) -> None:
    (foreign,) = await die(bench, tenant="other")
    (gone,) = await die(bench)
    (queued,) = await bench.submit()
    assert await dead_letters.purge_dead_letters(bench.store, [gone, gone]) == 1
    for job_id in (queued, foreign, gone, "00" + "0" * 32, "99" + "0" * 32, "../x"):
        with pytest.raises(Refused) as refused:
            await dead_letters.get_dead_letter(bench.store, "default", job_id)
        assert refused.value.code == "dead_letter_not_found"
        assert refused.value.message.replace(job_id, "ID") == (
            "no dead letter ID; they are kept for 604800 s, the newest 1000"
        )
    assert await found(bench.store, ALL) == set()
    assert await bench.state(gone) == "failed"  # it can be read as long as any result


async def test_a_purged_dead_letter_is_not_marked_as_replayed(bench: StoreBench) -> None:
    (job_id,) = await die(bench)
    await dead_letters.purge_dead_letters(bench.store, [job_id])
    with bench.server.client() as client:
        client.delete(f"jitney:{{s00}}:job:{job_id}")
        await dead_letters.mark_replayed(bench.store, job_id, "00" + "0" * 32)
        assert not client.exists(f"jitney:{{s00}}:job:{job_id}")


async def test_a_new_job_under_the_id_of_a_dead_letter_keeps_its_input(bench: StoreBench) -> None:
    """A line of a bulk job has a stable id; purging its old dead letter once removed the new job's input."""
    (job_id,) = await die(bench)
    with bench.server.client() as client:
        client.delete(f"jitney:{{s00}}:job:{job_id}")  # its time is over, and no sweep was there yet
        await bench.take(bench.job(id=job_id))
        at(bench, job_id, 1)
        await bench.sweep()
        assert client.ttl(f"jitney:{{s00}}:job:{job_id}") == -1
    assert [job.input for job in await bench.claim()] == [b"in"]


async def test_a_job_that_fails_again_under_the_id_of_a_dead_letter_is_counted_once(bench: StoreBench) -> None:
    (job_id,) = await die(bench)
    with bench.server.client() as client:
        client.delete(f"jitney:{{s00}}:job:{job_id}")
    assert await die(bench, id=job_id) == [job_id]
    assert await dead_letters.count_dead_letters(bench.store) == (1, 2)


async def test_junk_among_the_dead_letters_is_skipped(bench: StoreBench) -> None:
    ids = await die(bench, 3)
    with bench.server.client() as client:
        client.hset(f"jitney:{{s00}}:job:{ids[0]}", "error", "{")
        client.hset(f"jitney:{{s00}}:job:{ids[1]}", "kills", "many")
        assert await found(bench.store, ALL) == {ids[2]}


# ---- each tenant has a share


async def test_failures_of_one_tenant_do_not_evict_dead_letters_of_another(bench: StoreBench) -> None:
    """Regression: the tenants shared one budget without a share for each."""
    bench.store = JobStore(bench.store.settings.model_copy(update={"dead_letters": 6}), bench.store.connection)
    calm = await die(bench, 2, tenant="calm")
    other = await die(bench, 1, tenant="other")
    flood = await die(bench, 20, tenant="flood")
    assert await found(bench.store, ALL, tenant="calm") == set(calm)
    assert await found(bench.store, ALL, tenant="other") == set(other)
    assert await found(bench.store, ALL, tenant="flood") < set(flood)
    assert len(await found(bench.store, ALL, tenant="flood")) == 3
    assert await found(bench.store, ALL, tenant=None) > {*calm, *other}


async def test_bytes_are_shared_among_tenants_as_dead_letters_are(bench: StoreBench) -> None:
    settings = bench.store.settings.model_copy(update={"dead_letter_bytes": 1000})
    bench.store = JobStore(settings, bench.store.connection)
    calm = await die(bench, 5, tenant="calm", input=b"x" * 40)
    for _ in range(4):
        await die(bench, tenant="flood", input=b"x" * 300)
    assert await found(bench.store, ALL, tenant="calm") == set(calm)
    assert len(await found(bench.store, ALL, tenant="flood")) == 2
    await die(bench, tenant="flood", input=b"x" * 5000)  # larger than all the room: it alone goes
    assert await found(bench.store, ALL, tenant="calm") == set(calm)
    assert await dead_letters.count_dead_letters(bench.store) == (5, 200)


async def test_the_oldest_dead_letter_is_evicted_if_no_tenant_has_two(bench: StoreBench) -> None:
    bench.store = JobStore(bench.store.settings.model_copy(update={"dead_letters": 3}), bench.store.connection)
    ids = []
    for nth, tenant in enumerate(["z", "a", "m", "b", "y"]):
        (job_id,) = await die(bench, tenant=tenant)
        ids.append(job_id)
        with bench.server.client() as client:  # two may die in one ms
            for key in ("dead_letters", f"tenant_dead_letters:{tenant}"):
                client.zadd(f"jitney:{{s00}}:{key}", {f"{job_id} 2 {tenant}": nth}, xx=True)
    (newest,) = await die(bench, tenant="c")
    assert await found(bench.store, ALL, tenant=None) == {*ids[3:], newest}


async def test_a_lone_tenant_may_use_all_the_room(bench: StoreBench) -> None:
    bench.store = JobStore(bench.store.settings.model_copy(update={"dead_letters": 6}), bench.store.connection)
    ids = await die(bench, 10)
    assert len(await found(bench.store, ALL)) == 6
    assert await found(bench.store, ALL) < set(ids)


async def test_a_short_lifetime_of_dead_letters_does_not_shorten_results(bench: StoreBench) -> None:
    """With JITNEY_DEAD_LETTER_TTL_S below JITNEY_RESULT_TTL_S a failed job's record used to expire too early."""
    settings = bench.store.settings.model_copy(update={"dead_letter_ttl_s": 5.0, "result_ttl_s": 500.0})
    bench.store = JobStore(settings, bench.store.connection)
    (job_id,) = await die(bench)
    with bench.server.client() as client:
        assert client.ttl(f"jitney:{{s00}}:job:{job_id}") > 400
