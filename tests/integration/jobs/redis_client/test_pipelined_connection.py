"""The auto-pipelining connection: order, write coalescing, errors as values, timeouts, reconnects."""

import asyncio
import signal
import threading
from pathlib import Path
from typing import cast

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.errors import StoreUnavailable
from jobs.contract.job import Submission
from jobs.redis_client.client import RedisClient
from jobs.redis_client.pipelined_connection import FEW_ARGS, Arg, RedisConnection, pack, pack_large, pack_set
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from tests.support.servers import Server
from tests.support.waiting import pass_time

pytestmark = pytest.mark.anyio


async def test_each_caller_gets_its_own_answer(own: tuple[Server, RedisClient]) -> None:
    _, connection = own
    answers = await asyncio.gather(*(connection.command("ECHO", str(n)) for n in range(500)))
    assert answers == [str(n).encode() for n in range(500)]


async def test_commands_of_one_loop_turn_are_sent_together(own: tuple[Server, RedisClient]) -> None:
    server, connection = own
    await connection.command("PING")
    with server.client() as client:
        before = client.info("stats")["total_reads_processed"]
        await asyncio.gather(*(connection.command("ECHO", "x") for _ in range(200)))
        after = client.info("stats")["total_reads_processed"]
    assert after - before <= 5  # the two INFOs are among them


async def test_an_error_belongs_to_its_command_alone(own: tuple[Server, RedisClient]) -> None:
    _, connection = own
    pipe = connection._small
    wrong, right = await pipe.send([("NOSUCH",), ("ECHO", "x")])
    assert isinstance(wrong, hiredis.ReplyError)
    assert right == b"x"


async def test_a_command_that_cannot_be_packed_does_not_shift_the_others(own: tuple[Server, RedisClient]) -> None:
    _, connection = own
    await connection.command("PING")
    impossible = cast(str, None)
    for bad in ([("SET", "a", impossible)], [("PING",), ("SET", "a", impossible)]):
        with pytest.raises(TypeError):
            await connection.pipeline(bad)
    assert await connection.pipeline([("ECHO", "x"), ("ECHO", "y")]) == [b"x", b"y"]


async def test_a_submit_of_one_job_is_packed_the_fast_way(own: tuple[Server, RedisClient]) -> None:
    """`pack_large` takes twice as long for few small arguments."""
    args: list[Arg] = []
    _, connection = own
    store = JobStore(StoreSettings(), connection)

    async def keep(name: str, root: str, *more: Arg) -> list[bytes]:
        del name
        args.extend(("EVALSHA", "sha", 1, root, *more))
        return [b"1"]

    store.run = keep
    await store.submit([Submission("00" + 32 * "0", "m", "1", "raw", b"input")])
    assert len(args) <= FEW_ARGS


async def test_a_cancelled_command_does_not_shift_the_others(own: tuple[Server, RedisClient]) -> None:
    server, connection = own
    await connection.command("PING")
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)  # so that none is answered before it is cancelled
    tasks = [asyncio.create_task(connection.command("ECHO", str(n))) for n in range(10)]
    done, _ = await asyncio.wait(tasks, timeout=0.05)
    assert not done
    tasks[3].cancel()
    server.process.send_signal(signal.SIGCONT)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answer for n, answer in enumerate(answers) if n != 3] == [str(n).encode() for n in range(10) if n != 3]


async def test_a_lost_connection_sends_nothing_more(own: tuple[Server, RedisClient]) -> None:
    """Otherwise the next connection's first reply would go to a command that was never sent."""
    _, connection = own
    wire = await connection.subscribe(["c"], lambda _push: None)
    wire.close()
    with pytest.raises(ConnectionResetError):
        await wire.send([("ECHO", "x")])
    answers = await asyncio.gather(*(connection.command("ECHO", str(n)) for n in range(50)))
    assert answers == [str(n).encode() for n in range(50)]


async def test_an_empty_pipeline_is_answered_and_delays_nothing(own: tuple[Server, RedisClient]) -> None:
    _, connection = own
    nothing, something = await asyncio.gather(connection.pipeline([]), connection.command("ECHO", "x"))
    assert (nothing, something) == ([], b"x")


class Dripper(asyncio.Protocol):
    """Answers any command with ten bytes, one every 50 ms."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        del data
        for at, byte in enumerate(b"$5\r\nhello\r\n"):
            asyncio.get_running_loop().call_later(0.05 * at, self.transport.write, bytes([byte]))


async def test_a_slow_answer_may_take_longer_than_the_timeout(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with await loop.create_unix_server(Dripper, tmp_path / "s"):
        transport, _ = await loop.create_unix_connection(asyncio.Protocol, str(tmp_path / "s"))
        wire = RedisConnection((transport, None), timeout_s=0.2)
        assert await wire.send([("GET", "slow")]) == [b"hello"]
        wire.close()


async def test_a_blocked_event_loop_is_not_taken_for_a_silent_server(own: tuple[Server, RedisClient]) -> None:
    server, _ = own
    connection = RedisClient(server.url, 0.2)
    await connection.command("PING")
    answer = asyncio.create_task(connection.command("ECHO", "x"))
    await asyncio.wait([answer], timeout=0.001)
    threading.Event().wait(0.6)  # the whole loop, as a long decode that keeps the interpreter would
    assert await answer == b"x"
    await connection.aclose()


async def test_a_silent_server_is_an_error_after_a_timeout_and_then_recovers(own: tuple[Server, RedisClient]) -> None:
    server, connection = own
    assert server.process is not None
    await connection.command("PING")
    server.process.send_signal(signal.SIGSTOP)
    began = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailable, match=r"no answer within 0\.5 s"):
        await connection.command("PING")
    assert asyncio.get_running_loop().time() - began < 1.5
    server.process.send_signal(signal.SIGCONT)
    assert await connection.command("PING") == b"PONG"


async def test_a_server_is_silent_though_more_commands_are_sent(own: tuple[Server, RedisClient]) -> None:
    """The system takes them for a server that reads none."""
    server, connection = own
    assert server.process is not None
    await connection.command("PING")
    server.process.send_signal(signal.SIGSTOP)
    try:
        first = asyncio.create_task(connection.command("PING"))
        others = []
        for _ in range(30):
            others.append(asyncio.create_task(connection.command("PING")))
            if (await asyncio.wait([first], timeout=0.05))[0]:
                break
        assert first.done()
        assert isinstance(first.exception(), StoreUnavailable)
    finally:
        server.process.send_signal(signal.SIGCONT)
    await asyncio.gather(*others, return_exceptions=True)


class SlowReader(asyncio.Protocol):
    """Reads a part every 10 ms, and answers once it has all of `expected`."""

    expected = 4_000_000

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.read_bytes = cast("asyncio.Transport", transport), 0

    def data_received(self, data: bytes) -> None:
        self.read_bytes += len(data)
        self.transport.pause_reading()
        asyncio.get_running_loop().call_later(0.01, self.transport.resume_reading)
        if self.read_bytes >= self.expected:
            self.transport.write(b"+OK\r\n")


async def test_a_large_command_that_is_still_being_read_is_no_silence(tmp_path: Path) -> None:
    """Also while more is queued than has left."""
    loop = asyncio.get_running_loop()
    async with await loop.create_unix_server(SlowReader, tmp_path / "s"):
        transport, _ = await loop.create_unix_connection(asyncio.Protocol, str(tmp_path / "s"))
        wire = RedisConnection((transport, None), timeout_s=0.2)
        answer = wire.send([("SET", "a", bytes(SlowReader.expected))])
        for _ in range(20):
            wire.put([("SET", "b", bytes(1_000_000))])
            await pass_time(0.02)
        assert await answer == [b"OK"]
        wire.close()


async def test_the_connection_is_restored_after_a_server_restart(own: tuple[Server, RedisClient]) -> None:
    server, connection = own
    await connection.command("SET", "k", "v")
    server.kill()
    with pytest.raises(StoreUnavailable):
        await connection.command("GET", "k")
    server.start()
    assert await connection.command("GET", "k") == b"v"


async def test_large_inputs_use_their_own_connection(own: tuple[Server, RedisClient]) -> None:
    server, connection = own
    await connection.script("job/read_and_wait", "jitney:{s00}", "g", "00", "v", "state")
    with server.client() as client:
        before = len(client.client_list())
        await connection.script("job/read_and_wait", "jitney:{s00}", "g", "00", "v", b"x" * 300_000)
        assert len(client.client_list()) == before + 1


@given(st.lists(st.one_of(st.text(st.characters(codec="utf-8")), st.binary(), st.integers()), min_size=1))
def test_large_commands_are_packed_the_same(words: list[Arg]) -> None:
    assert pack_large(words) == pack(tuple(words))


@given(st.text(st.characters(codec="utf-8")), st.binary(), st.lists(st.one_of(st.text(), st.integers()), max_size=3))
def test_a_value_in_pieces_is_the_same_command(key: str, value: bytes, options: list[str | int]) -> None:
    try:
        expected = pack(("SET", key, value, *options))
    except UnicodeEncodeError:
        return
    assert b"".join(pack_set(key, memoryview(value), *options)) == expected


async def test_a_large_value_arrives_as_it_is(own: tuple[Server, RedisClient]) -> None:
    _, connection = own
    values = [bytes([at]) * size for at, size in enumerate((0, 10, 40_000, 1_000_000))]
    commands = [pack_set(f"large:{at}", value, "PX", 60_000) for at, value in enumerate(values)]
    assert await connection.pipeline(commands, large=True) == [b"OK"] * len(values)
    assert await connection.pipeline([("GET", f"large:{at}") for at in range(len(values))], large=True) == values
