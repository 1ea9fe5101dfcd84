"""Redis errors are sorted into retry, retry elsewhere and fail; "elsewhere" reopens every connection."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest
from redis import exceptions

from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.client import RedisClient
from jobs.redis_client.error_kinds import RECONNECT_ERRORS, ErrorKind, classify_error
from jobs.redis_client.pubsub import Subscriber
from tests.support.cluster.proxy import Network, Proxy
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio

ROOT = "jitney:{s00}"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("BUSY Redis is busy running a script", ErrorKind.RETRY),
        ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind.RETRY),
        ("MISCONF Errors writing to the AOF file", ErrorKind.RETRY),
        ("NOREPLICAS Not enough good replicas to write.", ErrorKind.RETRY),
        ("TRYAGAIN Multiple keys request during rehashing of slot", ErrorKind.RETRY),
        ("ERR max number of clients reached", ErrorKind.RETRY),
        ("READONLY You can't write against a read only replica.", ErrorKind.RECONNECT),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", ErrorKind.RECONNECT),
        ("MOVED 3999 127.0.0.1:6381", ErrorKind.RECONNECT),
        ("CLUSTERDOWN The cluster is down", ErrorKind.RECONNECT),
        ("LOADING Redis is loading the dataset in memory", ErrorKind.RECONNECT),
        ("NOAUTH Authentication required.", ErrorKind.RECONNECT),
        ("WRONGPASS invalid username-password pair or user is disabled.", ErrorKind.RECONNECT),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", ErrorKind.RECONNECT),
        ("NOPERM this user has no permissions to run the 'evalsha' command", ErrorKind.NEVER),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", ErrorKind.NEVER),
        ("ERR DB index is out of range", ErrorKind.NEVER),
        ("READONLYNESS is no code of Redis", ErrorKind.NEVER),
    ],
)
async def test_an_error_reply_has_a_kind(reply: str, kind: ErrorKind) -> None:
    assert classify_error(hiredis.ReplyError(reply)) is kind


@pytest.mark.parametrize("error", RECONNECT_ERRORS)
async def test_the_errors_that_redis_py_reconnects_on_are_those_of_the_table(error: type[Exception]) -> None:
    codes = [code for code, one in _classes().items() if one is error]
    assert codes
    assert {classify_error(error("3999 127.0.0.1:6381", status_code=code)) for code in codes} == {ErrorKind.RECONNECT}  # type: ignore[call-arg]


def _classes() -> dict[str, Any]:
    parser = exceptions.__dict__  # redis-py's own names
    return {
        "WRONGPASS": parser["AuthenticationError"],
        "LOADING": parser["BusyLoadingError"],
        "CLUSTERDOWN": parser["ClusterDownError"],
        "MASTERDOWN": parser["MasterDownError"],
        "MOVED": parser["MovedError"],
        "READONLY": parser["ReadOnlyError"],
    }


@pytest.mark.parametrize("error", [TimeoutError("no answer"), ConnectionResetError(), exceptions.TimeoutError()])
async def test_an_unanswered_command_is_retried(error: Exception) -> None:
    assert classify_error(error) is ErrorKind.RETRY


class Two:
    """Two independent servers, and a forwarder in front of them."""

    def __init__(self) -> None:
        self.old, self.new = Server(port=free_port()), Server(port=free_port())
        self.network = Network()
        self.forwarder = Proxy(self.network, self.old.port)
        self.connection = RedisClient(f"redis://127.0.0.1:{self.forwarder.port}/0", 2)

    def lead_to_new(self) -> None:
        self.forwarder.upstream = self.new.port

    def demote_old(self, *, serves_stale: bool = True) -> None:
        """Make the old server a replica, whose connections stay open."""
        with self.old.client() as client:
            client.config_set("replica-serve-stale-data", "yes" if serves_stale else "no")
            client.execute_command("REPLICAOF", "127.0.0.1", "1")

    def promote_old(self) -> None:
        with self.old.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")


@pytest.fixture(scope="module")
def servers() -> Iterator[Two]:
    two = Two()
    yield two
    two.network.close()
    two.old.close()
    two.new.close()


@pytest.fixture
async def two(servers: Two) -> AsyncIterator[Two]:
    servers.promote_old()
    servers.forwarder.upstream = servers.old.port
    servers.connection = RedisClient(f"redis://127.0.0.1:{servers.forwarder.port}/0", 2)
    for server in (servers.old, servers.new):
        with server.client() as client:
            client.flushall()
    yield servers
    await servers.connection.aclose()


@pytest.mark.parametrize("serves_stale", [True, False], ids=["READONLY", "MASTERDOWN"])
async def test_a_command_that_a_replica_refused_is_sent_to_the_new_primary(two: Two, serves_stale: bool) -> None:
    await two.connection.command("SET", "k", "old")
    two.demote_old(serves_stale=serves_stale)
    two.lead_to_new()
    assert await two.connection.command("SET", "k", "new") == b"OK"
    with two.new.client() as client:
        assert client.get("k") == b"new"


async def test_a_script_that_is_sent_only_once_is_resent_after_a_replica_refused_it(two: Two) -> None:
    await two.connection.script("generic/increment", "k", "field", 1)
    two.demote_old()
    two.lead_to_new()
    await asyncio.gather(*(two.connection.script("generic/increment", "k", "field", 1) for _ in range(100)))
    with two.new.client() as client:
        assert client.hget("k", "field") == b"100"


async def test_a_retry_waits_while_the_address_still_leads_to_the_old_primary(two: Two) -> None:
    await two.connection.command("PING")
    two.demote_old()
    asking = asyncio.create_task(two.connection.script("generic/increment", "k", "field", 1))
    done, _ = await asyncio.wait([asking], timeout=0.2)
    assert not done
    two.lead_to_new()
    await asking


async def test_an_address_that_stays_wrong_is_reported_and_returns_no_stale_data(two: Two) -> None:
    """A replica may be as old as its last sync: it is not read from."""
    await two.connection.command("SET", "k", "old")
    two.demote_old()
    with pytest.raises(StoreUnavailable, match="READONLY"):
        await two.connection.script("generic/increment", "k2", "field", 1)
    with pytest.raises(StoreUnavailable, match="READONLY: it is a replica"):
        await two.connection.command("GET", "k")


async def test_a_subscription_leaves_a_node_that_became_a_replica(two: Two) -> None:
    """It gets no error: no command is sent on it, and no notification arrives any more."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    connected: asyncio.Queue[bool] = asyncio.Queue()

    async def on_connect() -> None:
        connected.put_nowait(True)

    listener = Subscriber(two.connection, ["c"], lambda _channel, data: heard.put_nowait(data), on_connect)
    listening = asyncio.create_task(listener.run())
    await asyncio.wait_for(connected.get(), 5)
    two.demote_old()
    two.lead_to_new()
    await asyncio.wait_for(connected.get(), 5)
    with two.new.client() as client:
        client.publish("c", "from the new primary")
    assert await asyncio.wait_for(heard.get(), 5) == b"from the new primary"
    listening.cancel()


async def test_a_subscription_moves_with_the_connections_to_another_node(two: Two) -> None:
    """The address moved, some connections broke, and the isolated old primary remains a primary."""
    wire = await two.connection.subscribe(["c"], lambda _push: None)
    await two.connection.command("PING")
    two.lead_to_new()
    two.connection._small.close()
    await two.connection.command("PING")
    assert wire.lost.is_set()


async def test_commands_sent_before_the_move_are_answered_by_the_old_node(two: Two) -> None:
    """Connections are drained, not cut: otherwise it is unknown whether such a command was executed."""
    await two.connection.command("PING")
    with two.old.client() as client:
        client.execute_command("CLIENT", "PAUSE", "10000", "WRITE")
        asked = asyncio.create_task(two.connection.script("generic/increment", "k", "field", 1))
        done, _ = await asyncio.wait([asked], timeout=0.1)
        assert not done
        two.connection._reopen(two.connection._generation, "as if it had moved")
        assert await two.connection.command("PING") == b"PONG"
        client.execute_command("CLIENT", "UNPAUSE")
        await asked
        assert client.hget("k", "field") == b"1"


async def test_a_changed_password_is_read_again_from_its_file(tmp_path: Path) -> None:
    server, file = Server(), tmp_path / "url"
    try:
        with server.client() as client:
            client.config_set("requirepass", "first")
        file.write_text(f"unix://:first@{server.socket}\n")
        connection = RedisClient("", 2, url_file=file)
        assert await connection.command("PING") == b"PONG"
        server.url = f"unix://:first@{server.socket}"
        with server.client() as client:
            client.config_set("requirepass", "second")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises(StoreUnavailable, match="WRONGPASS"):
            await connection.command("PING")
        asking = asyncio.create_task(connection.command("PING"))
        done, _ = await asyncio.wait([asking], timeout=0.1)
        assert not done
        file.write_text(f"unix://:second@{server.socket}")
        assert await asking == b"PONG"
        await connection.aclose()
    finally:
        server.close()


async def test_a_single_failure_of_each_kind_is_reported_as_such(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    """A command that can never work is logged as an error once."""
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="unknown command"):
            await two.connection.command("NOSUCH")
    assert [record.levelname for record in caplog.records if "NOSUCH" in record.message] == ["ERROR"]


async def test_a_connection_recovers_after_a_wrong_url_in_the_file(two: Two, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(f"redis://127.0.0.1:{two.old.port}/0")
    connection = RedisClient("", 2, url_file=file)
    await connection.command("PING")
    file.write_text("half a line of a URL that is being writ")
    connection._small.close()
    with pytest.raises(StoreUnavailable, match="contains a blank"):
        await connection.command("PING")
    file.write_text(f"redis://127.0.0.1:{two.new.port}/0")

    async def answers() -> bool:
        return bool(await connection.command("PING") == b"PONG")

    await wait_until_async(answers, "it answers again")
    await connection.aclose()


async def test_a_full_server_is_logged_once_and_not_with_each_heartbeat(
    two: Two, caplog: pytest.LogCaptureFixture
) -> None:
    """Finish scripts still run between refused heartbeats: they do not count as a recovery."""
    with two.old.client() as client:
        client.config_set("maxmemory", 1)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="OOM"):
                await two.connection.command("SET", "heartbeat", "x")
            await two.connection.script("dead_letter/purge", ROOT, 100, 1, 1, 1, 1)
        client.config_set("maxmemory", 0)
    assert [record.levelname for record in caplog.records if "memory" in record.message] == ["WARNING"]


async def test_a_server_that_cannot_write_gives_two_log_lines(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "jitney.jobs")
    with two.old.client() as client:
        client.config_set("min-replicas-to-write", 1)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
                await two.connection.script("generic/increment", "k", "field", 1)
        client.config_set("min-replicas-to-write", 0)
    for _ in range(3):
        await two.connection.script("generic/increment", "k", "field", 1)
    said = [record.message.split(",")[0] for record in caplog.records if "write to" in record.message]
    assert said == ["cannot write to Redis", "can write to Redis again"]
