"""Tenant quotas at submit, running limits and weights at claim; nothing is counted without limits."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.config.settings_base import format_validation_error
from jobs.contract.errors import OverLimit, Refused, RetryLater
from jobs.contract.job import ClaimedJob, Outcome
from jobs.contract.lifecycle import State
from jobs.store.job_store import JobStore
from jobs.store.maintenance import recover_dead_worker
from jobs.store.settings import StoreSettings
from tests.integration.jobs.conftest import StoreBench
from tests.support import records

Limited = Callable[..., JobStore]


@pytest.fixture
def limited(bench: StoreBench) -> Limited:
    """Give the store other settings."""

    def make(**settings: Any) -> JobStore:
        bench.store = JobStore(
            StoreSettings(redis_url=bench.server.url, max_lost_leases=3, **settings), bench.store.connection
        )
        return bench.store

    return make


def load(bench: StoreBench, tenant: str) -> dict[str, int]:
    """Read the counters of a tenant."""
    with bench.server.client() as client:
        fields = client.hgetall("jitney:{s00}:open_totals").items()
    return {name.decode().split(":")[1]: int(n) for name, n in fields if name.startswith(b"@%s:" % tenant.encode())}


def by_tenant(bench: StoreBench, claimed: list[ClaimedJob]) -> Counter[str]:
    with bench.server.client() as client:
        return Counter(records.read(client, job.id)["tenant"] for job in claimed)


async def test_the_open_jobs_of_each_tenant_are_limited_separately(bench: StoreBench, limited: Limited) -> None:
    limited(tenant_jobs=2, tenants='{"big": {"jobs": 3}}')
    for tenant, most in (("a", 2), ("big", 3), ("b", 2)):
        await bench.submit(most, tenant=tenant)
        with pytest.raises(OverLimit, match=f"{most} jobs with {2 * most} bytes") as refused:
            await bench.submit(tenant=tenant)
        assert (refused.value.code, refused.value.details["limit_jobs"]) == ("quota_exceeded", most)
    await bench.store.finish("w1", bench.succeed(await bench.claim(1)))
    assert load(bench, "a") == {"jobs": 1, "bytes": 2}
    await bench.submit(tenant="a")


async def test_the_bytes_of_a_tenant_are_limited(bench: StoreBench, limited: Limited) -> None:
    limited(tenant_bytes=100)
    await bench.submit(tenant="a", input=b"x" * 60)
    with pytest.raises(OverLimit):
        await bench.submit(tenant="a", input=b"x" * 41)
    await bench.submit(tenant="a", input=b"x" * 40)
    await bench.submit(tenant="b", input=b"x" * 100)


async def test_a_request_above_the_quota_is_refused_for_good(bench: StoreBench, limited: Limited) -> None:
    """A job above the byte limit of its tenant or model used to get Retry-After."""
    for settings, most in (({"tenant_bytes": 100}, 100), ({"max_input_bytes": 100}, 100)):
        limited(**settings)
        await bench.submit(tenant="a", input=b"x" * 60)
        with pytest.raises(Refused, match=f"may have at most {most}: send a smaller input") as refused:
            await bench.submit(tenant="a", input=b"x" * 101)
        error = refused.value
        assert (error.code, error.status, error.details) == ("body_too_large", 413, {"limit_bytes": most})
        with pytest.raises(RetryLater):
            await bench.submit(tenant="a", input=b"x" * 41)
        await bench.store.finish("w1", bench.succeed(await bench.claim()))
    limited(max_input_bytes=100)  # bulk's part of the room is nine tenths
    with pytest.raises(Refused, match="lane bulk may have at most 90"):
        await bench.submit(lane="bulk", input=b"x" * 91)
    limited(max_jobs=1)  # nine tenths of which are none
    await bench.submit(lane="bulk")


async def test_a_request_above_the_quota_is_refused_for_good_in_a_full_queue_too(
    bench: StoreBench, limited: Limited
) -> None:
    """It used to get Retry-After while the queue was full, or its tenant at its job limit."""
    for settings in ({"tenant_bytes": 100, "max_jobs": 1}, {"max_input_bytes": 100, "tenant_jobs": 1}):
        limited(**settings)
        await bench.submit(tenant="a")
        with pytest.raises(RetryLater):
            await bench.submit(tenant="a")
        with pytest.raises(Refused, match="may have at most 100: send a smaller input"):
            await bench.submit(tenant="a", input=b"x" * 101)
        await bench.store.finish("w1", bench.succeed(await bench.claim()))


async def test_jobs_of_one_call_are_accepted_up_to_the_quota(bench: StoreBench, limited: Limited) -> None:
    limited(tenant_jobs=2)
    jobs = [bench.job(tenant=tenant) for tenant in ("a", "a", "a", "b", "a", "b", "b")]
    verdicts = await bench.store.submit(jobs)
    assert [isinstance(verdict, OverLimit) for verdict in verdicts] == [False, False, True, False, True, False, True]


async def test_a_known_key_is_found_though_the_quota_is_used_up(bench: StoreBench, limited: Limited) -> None:
    limited(tenant_jobs=1)
    job = bench.job(tenant="a", idempotency_key="k", digest="d")
    (first,) = await bench.take(job)
    (again,) = await bench.take(bench.job(tenant="a", idempotency_key="k", digest="d"))
    assert (again.id, again.replayed) == (first.id, True)


async def end_by_cancel(bench: StoreBench, job: ClaimedJob) -> None:
    await bench.store.cancel(job.id, "a")


async def end_by_finish(bench: StoreBench, job: ClaimedJob) -> None:
    await bench.store.finish("w1", bench.succeed([job]))


async def end_as_dead_letter(bench: StoreBench, job: ClaimedJob) -> None:
    await bench.store.finish("w1", [Outcome(job.id, job.attempt, State.FAILED, b'{"code":"poison"}', dead=True)])


async def end_by_retry(bench: StoreBench, job: ClaimedJob) -> None:
    await bench.store.finish("w1", [Outcome(job.id, job.attempt, State.QUEUED, b"", after_ms=60_000)])


async def end_by_release(bench: StoreBench, job: ClaimedJob) -> None:
    assert await bench.store.release("w1", [job]) == 1


async def end_by_lost_lease(bench: StoreBench, job: ClaimedJob) -> None:
    bench.end_lease(job.id)
    assert (await bench.sweep()).reclaimed == 1


async def end_by_deadline(bench: StoreBench, job: ClaimedJob) -> None:
    bench.pass_deadline(job.id)
    assert (await bench.sweep()).expired == 1


async def end_by_recovery(bench: StoreBench, job: ClaimedJob) -> None:
    assert (await recover_dead_worker(bench.store, "w1", [])).back == 1
    del job


async def end_as_suspect(bench: StoreBench, job: ClaimedJob) -> None:
    assert (await recover_dead_worker(bench.store, "w1", [job.claim])).suspects == 1


ENDS = [
    *(end_by_cancel, end_by_finish, end_as_dead_letter, end_by_retry, end_by_release),
    *(end_by_lost_lease, end_by_deadline, end_by_recovery, end_as_suspect),
]


@pytest.mark.parametrize("end", ENDS)
async def test_another_job_may_run_however_a_running_one_ends(bench: StoreBench, limited: Limited, end: Any) -> None:
    limited(tenant_running=1)
    await bench.submit(2, tenant="a")
    (first,) = await bench.claim()
    assert load(bench, "a") == {"running": 1}
    assert await bench.claim() == []
    await end(bench, first)
    assert load(bench, "a") == {}
    assert len(await bench.claim()) == 1


async def test_a_tenant_at_its_running_limit_is_skipped_and_keeps_its_position(
    bench: StoreBench, limited: Limited
) -> None:
    limited(tenants='{"a": {"running": 2}}')
    await bench.submit(10, tenant="a")
    await bench.submit(10, tenant="b")
    first = await bench.claim(8)
    assert by_tenant(bench, first) == {"a": 2, "b": 6}
    await bench.store.finish("w1", bench.succeed(first))
    assert by_tenant(bench, await bench.claim(8)) == {"a": 2, "b": 4}


@pytest.mark.parametrize("want", [1, 2, 3, 8, 32])
async def test_tenants_share_rows_by_weight_for_any_batch_size(bench: StoreBench, limited: Limited, want: int) -> None:
    limited(tenants='{"a": {"weight": 3}}')
    for tenant in ("b", "a", "c"):
        await bench.submit(300, tenant=tenant)
    rows: Counter[str] = Counter()
    while rows.total() < 160:
        rows += by_tenant(bench, await bench.claim(want))
    shares = {tenant: rows[tenant] / rows.total() for tenant in "abc"}
    assert shares == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.2}, abs=0.04)


async def test_a_lone_tenant_of_little_weight_has_all_rows(bench: StoreBench, limited: Limited) -> None:
    limited(tenants='{"a": {"weight": 100}}')
    await bench.submit(32, tenant="b")
    assert len(await bench.claim(32)) == 32


async def test_without_limits_nothing_is_counted(bench: StoreBench) -> None:
    await bench.submit(3, tenant="a")
    await bench.claim(2)
    assert load(bench, "a") == {}
    with bench.server.client() as client:
        for key in client.scan_iter("jitney:{s00}:job:*"):
            assert client.hmget(key, "quota_mark", "running_mark") == [None, None]


@pytest.mark.parametrize("text", ["[", "[]", '{"A": {}}', '{"a": {"weight": 0}}', '{"a": {"jobz": 1}}', '{"a": 1}'])
def test_invalid_tenants_stop_the_start_with_a_message(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITNEY_TENANTS", text)
    with pytest.raises(ValidationError) as found:
        StoreSettings()
    assert format_validation_error(found.value).startswith("JITNEY_TENANTS=")
