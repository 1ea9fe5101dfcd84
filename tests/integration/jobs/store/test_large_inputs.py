"""Inputs of 32 kB and more have a key of their own, written before the submit, read after the claim."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.contract.errors import OverLimit, QueueFull, StoreUnavailable
from jobs.contract.job import Accepted, Outcome, Submission
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.store import codec, dead_letters, inputs
from jobs.store.codec import OWN_KEY_BYTES
from jobs.tenants.limits import LimitOverride
from tests.integration.jobs.conftest import StoreBench

LARGE = b"\0x\r\n" * (OWN_KEY_BYTES // 4)
FAILED = b'{"code":"inference_failed","message":"m","status":422}'


def ttl_ms(bench: StoreBench, job_id: str) -> int:
    """How long the key of an input lives; -1: for good, -2: there is none."""
    with bench.server.client() as client:
        return int(client.pttl(keys.input_key(job_id)))


def test_scripts_and_clients_agree_on_the_size() -> None:
    common = Path(codec.__file__).parents[1] / "lua" / "shared" / "common.lua"
    assert re.findall(r"local OWN_KEY_BYTES = (\d+)", common.read_text()) == [str(OWN_KEY_BYTES)]


async def test_an_input_lies_beside_its_record_from_that_size_on(bench: StoreBench) -> None:
    (small,) = await bench.submit(input=LARGE[:-1])
    (large,) = await bench.submit(input=LARGE)
    assert (ttl_ms(bench, small), ttl_ms(bench, large)) == (-2, -1)
    with bench.server.client() as client:
        assert (client.hexists(keys.job(small), "body"), client.hexists(keys.job(large), "body")) == (True, False)
    claimed = await bench.claim()
    assert [(job.id, job.input) for job in claimed] == [(small, LARGE[:-1]), (large, LARGE)]
    assert await bench.store.finish("w1", bench.succeed(claimed)) == 0
    assert ttl_ms(bench, large) == -2
    assert [await bench.state(job_id) for job_id in (small, large)] == ["succeeded", "succeeded"]


async def test_a_handed_off_job_has_its_input_read_by_the_worker(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1") as hear:
        await bench.claim(3)
        (job_id,) = await bench.submit(input=LARGE)
        _, handoff = codec.read_handoff(hear())
    assert [(job.id, job.input) for job in handoff.jobs] == [(job_id, None)]
    (job,) = await bench.store.read_inputs(handoff.jobs)
    assert job.input == LARGE
    assert await bench.store.finish("w1", bench.succeed([job])) == 0


@pytest.mark.parametrize("end", ["canceled", "expired", "reclaimed", "recovered"])
async def test_an_input_lives_as_long_as_its_job_is_open(bench: StoreBench, end: str) -> None:
    (job_id,) = await bench.submit(input=LARGE)
    (job,) = await bench.claim()
    if end == "canceled":
        await bench.store.cancel(job_id, "default")
    elif end == "expired":
        bench.pass_deadline(job_id)
        await bench.sweep()
    else:
        bench.end_lease(job_id)
        await bench.sweep()
        (again,) = await bench.claim()
        assert (again.input, again.attempt) == (LARGE, job.attempt + 1)
        return
    assert ttl_ms(bench, job_id) == -2
    (late,) = await bench.store.read_inputs([job._replace(input=None)])
    assert late.input is None


async def test_refused_replayed_and_lost_submits_leave_nothing_for_long(bench: StoreBench) -> None:
    bench.store.tenants.update({"default": LimitOverride(jobs=1)})
    first = bench.job(input=LARGE, idempotency_key="k", digest="d")
    again, third = bench.job(input=LARGE, idempotency_key="k", digest="d"), bench.job(input=LARGE)
    (taken,) = await bench.store.submit([first])
    replayed, refused = await bench.store.submit([again, third])
    assert isinstance(taken, Accepted)
    assert isinstance(replayed, Accepted)
    assert (replayed.id, isinstance(refused, OverLimit)) == (first.id, True)
    assert [ttl_ms(bench, job.id) for job in (first, again, third)] == [-1, -2, -2]
    await inputs.write_inputs(bench.store.connection, [third])  # its gateway dies before the submit
    assert 50_000 < ttl_ms(bench, third.id) <= inputs.UNSUBMITTED_TTL_MS


async def test_a_job_that_is_submitted_again_keeps_its_input(bench: StoreBench) -> None:
    """As a line of a bulk job is whose step died: neither the second write nor the second submit may let it expire."""
    job = bench.job(input=LARGE)
    for _ in range(2):
        (taken,) = await bench.store.submit([job])
        assert isinstance(taken, Accepted)
        assert ttl_ms(bench, job.id) == -1
    (claimed,) = await bench.claim()
    await bench.store.finish("w1", bench.succeed([claimed]))
    await bench.store.submit([job])
    assert ttl_ms(bench, job.id) == -2


async def test_an_input_that_expired_before_its_submit_is_asked_for_again(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write_and_expire(connection: RedisClient, jobs: Sequence[Submission]) -> None:
        await write(connection, jobs)
        await inputs.drop_inputs(connection, [job.id for job in jobs])

    write = inputs.write_inputs
    monkeypatch.setattr(inputs, "write_inputs", write_and_expire)
    (result,) = await bench.store.submit([bench.job(input=LARGE)])
    assert isinstance(result, StoreUnavailable)
    assert "send the request again" in str(result)
    assert await bench.claim() == []


async def test_a_server_without_memory_refuses_the_input_and_the_job(bench: StoreBench) -> None:
    with bench.server.client() as client:
        client.config_set("maxmemory", "1mb")
        try:
            (large,) = await bench.store.submit([bench.job(input=LARGE)])
            assert isinstance(large, QueueFull)
            assert "out of memory" in str(large)
        finally:
            client.config_set("maxmemory", "0")


async def test_a_dead_letter_keeps_its_large_input_until_it_is_purged(bench: StoreBench) -> None:
    (job_id,) = await bench.submit(input=LARGE)
    (job,) = await bench.claim()
    await bench.store.finish("w1", [Outcome(job_id, job.attempt, State.FAILED, FAILED, dead=True)])
    letter = await dead_letters.get_dead_letter(bench.store, "default", job_id)
    assert (letter.input_bytes, await dead_letters.read_input(bench.store, letter)) == (len(LARGE), LARGE)
    assert ttl_ms(bench, job_id) > 0
    await dead_letters.mark_replayed(bench.store, job_id, "00" + "a" * 32)
    assert (await dead_letters.get_dead_letter(bench.store, "default", job_id)).replayed_as == "00" + "a" * 32
    assert await dead_letters.purge_dead_letters(bench.store, [job_id]) == 1
    assert ttl_ms(bench, job_id) == -2
