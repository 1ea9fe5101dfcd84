"""Settings of all processes of a queue: SHARDS must be equal; others, and model files, are compared.

The row: with SHARDS 4 and then 1, 27 of 40 jobs were stuck for ever; gateways and workers that differed said nothing.
"""

import logging
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from api.settings import GatewaySettings
from background.settings import BackgroundSettings
from jobs.bulk.settings import BulkSettings
from jobs.config import compared_settings, settings_agreement
from jobs.config.settings_agreement import (
    FormatMismatch,
    Process,
    SettingsAgreement,
    ShardsMismatch,
    check_shards,
    check_shards_at_start,
    find_differences,
)
from jobs.models import worker_registry
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.store.settings import StoreSettings
from tests.integration.jobs.conftest import StoreBench
from tests.support.servers import free_port
from tests.support.waiting import wait_until_async
from worker.settings import WorkerSettings


def one(
    bench: StoreBench, name: str, part: compared_settings.Part = "gateway", shards: int = 1, **settings: Any
) -> SettingsAgreement:
    """A process that announces itself."""
    me = Process.this(part, name, StoreSettings(redis_url="redis://x", shards=shards, **settings))
    return SettingsAgreement(bench.store.connection, me, shards, 5)


@pytest.mark.parametrize(("kept", "other"), [(4, 1), (1, 4)])
async def test_a_differing_number_of_shards_is_refused_and_both_are_named(
    bench: StoreBench, kept: int, other: int
) -> None:
    await one(bench, "first", shards=kept).check()
    await one(bench, "second", "worker", shards=kept).check()
    for refused in (
        one(bench, "third", "worker", shards=other).check(),
        check_shards_at_start(bench.store.connection, other),
    ):
        with pytest.raises(ShardsMismatch, match=f"JITNEY_SHARDS={other}, but this queue uses JITNEY_SHARDS={kept}"):
            await refused
    assert [process.id for process in await settings_agreement.read_processes(bench.store.connection)] == [
        "first",
        "second",
    ]
    assert await settings_agreement.read_shards(bench.store.connection) == kept


async def test_a_queue_with_more_shards_from_before_the_number_was_stored_is_refused(bench: StoreBench) -> None:
    with bench.server.client() as client:
        client.hset(keys.open_totals(3), "sequence", 1)
        with pytest.raises(ShardsMismatch, match="JITNEY_SHARDS=1, but this queue uses JITNEY_SHARDS=4"):
            await one(bench, "late").check()
        await one(bench, "good", shards=4).check()
        client.delete(keys.open_totals(3))


async def test_a_queue_of_another_format_is_refused_in_one_line(bench: StoreBench) -> None:
    connection = bench.store.connection
    await check_shards(connection, 1)
    assert await connection.command("GET", keys.FORMAT) == b"3"
    await check_shards(connection, 1)
    with bench.server.client() as client:
        client.set(keys.FORMAT, "4")
        with pytest.raises(FormatMismatch, match=r"the format 4, and this release uses 3: .*FLUSHDB.*JITNEY_DATA_DIR"):
            await check_shards(connection, 1)
        client.delete(keys.FORMAT)
        client.hset("jitney:{s00}:load", "m:jobs", 1)  # as the first format had it
        with pytest.raises(FormatMismatch, match="the format 1, and"):
            await check_shards(connection, 1)
        client.delete("jitney:{s00}:load")


async def test_an_emptied_queue_takes_a_new_number_and_an_unreachable_one_refuses_none(
    bench: StoreBench,
) -> None:
    process = one(bench, "a", shards=4)
    await process.check()
    with bench.server.client() as client:
        client.flushall()
        await process.refresh()
        assert client.hget(keys.AGREEMENT, "shards") == b"4"
    away = RedisClient(f"redis://127.0.0.1:{free_port()}/0", 1)
    await check_shards_at_start(away, 1)
    await away.aclose()


async def test_a_difference_names_both_sides_and_is_logged_once(
    bench: StoreBench, caplog: pytest.LogCaptureFixture
) -> None:
    gateway, worker = one(bench, "g1", result_ttl_s=3600), one(bench, "w1", "worker", result_ttl_s=60.5)
    with caplog.at_level(logging.INFO, "jitney.jobs"):
        for _ in range(2):
            await gateway.refresh()
            await worker.refresh()
        (found,) = worker.differences
        assert {value: [who.id for who in whose] for value, whose in found.values.items()} == {
            "3600": ["g1"],
            "60.5": ["w1"],
        }
        await gateway.refresh()
        assert gateway.differences == [found]
        await worker.withdraw()
        await gateway.refresh()
    assert gateway.differences == []
    told = [record.getMessage() for record in caplog.records if record.module == "settings_agreement"]
    assert [text.partition(" ")[0] for text in told] == ["settings", "settings", "JITNEY_RESULT_TTL_S"]
    assert "JITNEY_RESULT_TTL_S is 3600 (gateway g1 on " in told[0]
    assert ", but 60.5 (worker w1 on " in told[0]


async def test_a_process_without_a_heartbeat_is_gone_and_junk_is_ignored(bench: StoreBench) -> None:
    gateway, worker = one(bench, "g1"), one(bench, "w1", "worker", result_ttl_s=1)
    await gateway.refresh()
    await worker.refresh()
    with bench.server.client() as client:
        _, record = client.hget(keys.AGREEMENT, "process:w1").split(b" ", 1)
        client.hset(
            keys.AGREEMENT, mapping={"process:w1": b"1 " + record, "process:x": "9" * 15 + " {", "process:y": "?"}
        )
        await gateway.refresh()
        assert gateway.differences == []
        assert set(client.hkeys(keys.AGREEMENT)) == {b"shards", b"process:g1", b"process:x"}


def test_settings_that_a_process_does_not_use_may_differ() -> None:
    """Operators set a variable where it is used: a worker without gateway settings does not differ."""
    gateway = Process.this(
        "gateway", "g", StoreSettings(max_jobs=5, job_list_limit=7, max_lost_leases=2), GatewaySettings()
    )
    worker = Process.this("worker", "w", StoreSettings(bulk_share=3, max_kills=9, lease_s=2), WorkerSettings())
    deliverer = Process.this("background", "d", StoreSettings(max_jobs=5), BackgroundSettings())
    assert find_differences([gateway, worker, deliverer]) == []
    differing = Process.this("background", "d", StoreSettings(max_jobs=6), BackgroundSettings(default_model="m"))
    assert [one.what for one in find_differences([gateway, worker, differing])] == [
        "JITNEY_DEFAULT_MODEL",
        "JITNEY_MAX_JOBS",
    ]


@pytest.mark.parametrize(
    ("first", "second", "differs"),
    [
        ({"webhook_ports": "80,443"}, {"webhook_ports": "443, 80"}, []),
        ({"webhook_schedule": "0,5,9"}, {"webhook_schedule": "0,9,5"}, ["JITNEY_WEBHOOK_SCHEDULE"]),
        ({"webhook_timeout_s": 5}, {"webhook_timeout_s": 5.0}, []),
        ({"webhook_allow_cidrs": "10.0.0.0/8"}, {}, ["JITNEY_WEBHOOK_ALLOW_CIDRS"]),
    ],
)
def test_values_are_compared_by_meaning(
    first: Mapping[str, Any], second: Mapping[str, Any], differs: list[str]
) -> None:
    processes = [
        Process.this("background", name, BackgroundSettings(**one)) for name, one in {"a": first, "b": second}.items()
    ]
    assert [one.what for one in find_differences(processes)] == differs


def test_bulk_storage_is_compared_by_kind_and_on_one_host_by_path(monkeypatch: Any) -> None:
    def process(host: str, place: str) -> Process:
        monkeypatch.setattr("socket.gethostname", lambda: host)
        return Process.this("gateway", host + place, BulkSettings(bulk_store=place))

    assert find_differences([process("a", "/x"), process("b", "/y")]) == []
    assert [one.what for one in find_differences([process("a", "/x"), process("a", "/y")])] == [
        "JITNEY_BULK_STORE on a"
    ]
    assert [one.what for one in find_differences([process("a", "/x"), process("b", "s3://x")])] == ["JITNEY_BULK_STORE"]


@pytest.mark.parametrize("settings", [StoreSettings, GatewaySettings, WorkerSettings, BackgroundSettings, BulkSettings])
def test_every_setting_is_declared_as_compared_or_not(settings: type[BaseSettings]) -> None:
    names = {f"JITNEY_{name.upper()}" for name in settings.model_fields}
    assert names - compared_settings.COMPARED.keys() - compared_settings.NOT_COMPARED == set()
    assert names & compared_settings.COMPARED.keys() & compared_settings.NOT_COMPARED == set()


# ---- files of models


async def hold(bench: StoreBench, worker: str, digest: str, ttl_s: float = 60) -> str:
    return (await worker_registry.claim_digests(bench.store.connection, worker, {"m 1": digest}, ttl_s))["m 1"]


async def test_the_first_announced_files_are_served_until_no_worker_has_them(bench: StoreBench) -> None:
    assert [await hold(bench, "w1", "a"), await hold(bench, "w2", "b"), await hold(bench, "w3", "a")] == ["a"] * 3
    await hold(bench, "w1", "a", ttl_s=0)
    assert await hold(bench, "w2", "b") == "a"
    await hold(bench, "w3", "a", ttl_s=0)
    assert await hold(bench, "w2", "b") == "b"
    assert await hold(bench, "w1", "a") == "b"
    await hold(bench, "w1", "a", ttl_s=0)
    await hold(bench, "w2", "b", ttl_s=0)
    with bench.server.client() as client:
        assert client.exists(keys.DIGESTS) == 0


async def test_the_files_of_a_dead_worker_count_for_a_limited_time(bench: StoreBench) -> None:
    await hold(bench, "dead", "a", ttl_s=0.05)

    async def is_served() -> bool:
        return await hold(bench, "w2", "b") == "b"

    await wait_until_async(is_served, "the other files are served")


async def test_files_that_change_under_their_number_are_served_once_all_workers_have_them(bench: StoreBench) -> None:
    assert [await hold(bench, "w1", "a"), await hold(bench, "w1", "b")] == ["a", "b"]
    assert [await hold(bench, "w2", "b"), await hold(bench, "w1", "c"), await hold(bench, "w2", "c")] == ["b", "b", "c"]


async def test_junk_in_place_of_files_is_ignored(bench: StoreBench) -> None:
    with bench.server.client() as client:
        for junk in ("", "x", "[]", '{"holders": 3}', '{"holders": {"w9": 3}, "served": "z"}'):
            client.hset(keys.DIGESTS, "m 1", junk)
            assert await hold(bench, "w1", "a") == "a", junk
