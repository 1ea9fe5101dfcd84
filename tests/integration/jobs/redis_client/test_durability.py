"""Server settings that may lose jobs are found, warned of once, and refused on request."""

import logging
from collections.abc import Iterator

import pytest

from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.client import RedisClient
from jobs.redis_client.durability import CHECKS, Hazard, assess_server, describe_safety
from tests.support.servers import Server, free_port

pytestmark = pytest.mark.anyio

SAFE = b"redis_version:7.0.15\r\nrole:master\r\naof_enabled:1\r\nmaxmemory_policy:noeviction\r\nrun_id:x\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(port=free_port())
    yield server
    server.close()


@pytest.fixture
def settled(server: Server) -> Server:
    """A server with safe settings."""
    with server.client() as client:
        client.config_set("appendonly", "yes")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("replica-read-only", "yes")
        client.execute_command("REPLICAOF", "NO", "ONE")
    return server


def hazards(info: bytes) -> list[str]:
    return [hazard.check for hazard in assess_server({}, info).hazards]


@pytest.mark.parametrize(
    ("before", "after", "check"),
    [
        (b"aof_enabled:1", b"aof_enabled:0", "persistence"),
        (b"noeviction", b"allkeys-lru", "eviction"),
        (b"noeviction", b"volatile-ttl", "eviction"),
        (b"role:master", b"role:slave", "role"),
        (b"7.0.15", b"6.2.14", "version"),
    ],
)
async def test_each_hazard_is_found(before: bytes, after: bytes, check: str) -> None:
    assert hazards(SAFE) == []
    assert hazards(SAFE.replace(before, after)) == [check]


@pytest.mark.parametrize(
    "line", [b"aof_enabled:1\r\n", b"maxmemory_policy:noeviction\r\n", b"role:master\r\n", b"redis_version:7.0.15\r\n"]
)
async def test_an_unreported_setting_is_neither_safe_nor_a_hazard(line: bytes) -> None:
    safety = assess_server({}, SAFE.replace(line, b""))
    assert (safety.hazards, len(safety.unknown), safety.is_durable) == ((), 1, False)
    assert safety.warnings == [f"cannot tell {CHECKS[safety.unknown[0]]}"]


async def test_a_server_that_refuses_info_still_says_its_role_and_version() -> None:
    safety = assess_server({b"role": b"replica", b"version": b"7.0.15"}, Exception("NOPERM"))
    assert [hazard.check for hazard in safety.hazards] == ["role"]
    assert safety.unknown == ("persistence", "eviction")
    assert safety.is_read_only


async def test_real_servers_of_every_engine_are_judged(has_custom_engine: Server) -> None:
    connection = RedisClient(has_custom_engine.url, 2)
    await connection.command("PING")
    assert connection.safety is not None
    assert connection.safety.warnings == []
    assert describe_safety(connection.safety) == {"safe": True, "warnings": []}
    await connection.aclose()


@pytest.fixture(params=["valkey", "redis-7.0"])
def has_custom_engine(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    yield server
    server.close()


async def test_each_hazard_is_warned_of_once_and_again_only_after_a_change(
    settled: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jitney.jobs")
    with settled.client() as client:
        client.config_set("appendonly", "no")
        client.config_set("maxmemory-policy", "allkeys-lru")
        connection = RedisClient(settled.url, 2)
        for _ in range(3):
            await connection.command("PING")
            connection._small.close()
        said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert len(said) == 2
        assert "appendonly is not yes" in said[0]
        assert "maxmemory-policy is allkeys-lru" in said[1]
        client.config_set("appendonly", "yes")
        client.config_set("maxmemory-policy", "noeviction")
        await connection.command("PING")
    assert caplog.records[-1].message.endswith("is durable now")
    await connection.aclose()


async def test_a_replica_that_takes_writes_is_a_hazard_too(settled: Server) -> None:
    with settled.client() as client:
        client.config_set("replica-read-only", "no")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
    connection = RedisClient(settled.url, 2)
    await connection.command("PING")
    assert connection.safety is not None
    assert [hazard.check for hazard in connection.safety.hazards] == ["role"]
    await connection.aclose()


async def test_a_user_without_info_rights_is_served_with_a_warning(
    settled: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with settled.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", "-info", "-config")
    connection = RedisClient(f"redis://limited:pw@127.0.0.1:{settled.port}/0", 2)
    await connection.command("PING")
    assert sum("cannot tell whether" in record.message for record in caplog.records) == 2
    await connection.aclose()


async def test_require_durable_refuses_new_jobs_and_old_ones_continue(settled: Server) -> None:
    connection = RedisClient(settled.url, 2, require_durable=True)
    assert await connection.unusable_reason() == ""
    with settled.client() as client:
        client.config_set("appendonly", "no")
    connection._small.close()
    with pytest.raises(StoreUnavailable, match=r"JITNEY_REQUIRE_DURABLE is set.*appendonly is not yes"):
        await connection.script("job/submit", "jitney:{s00}")
    await connection.script("generic/increment", "jitney:{s00}:k", "field", 1)
    assert "appendonly is not yes" in await connection.unusable_reason()
    with settled.client() as client:
        client.config_set("appendonly", "yes")
    await connection.aclose()


async def test_a_hazard_names_its_remedy() -> None:
    (one,) = assess_server({}, SAFE.replace(b"role:master", b"role:slave")).hazards
    assert one == Hazard("role", "it is a replica: writes are refused or lost; use the address of its primary")
