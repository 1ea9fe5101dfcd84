"""The queue's address: a wrong one is one line and exit code 78, and none is ever guessed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.serve.redis_address import QueueNotFound, locate
from tests.support.embedded_redis import running_server
from tests.support.servers import Server, free_port
from tests.support.service import ROOT

EX_UNAVAILABLE, EX_CONFIG = 69, 78
PROCESSES = {
    "up": ("cli.main", "up"),
    "api": ("cli.main", "api"),
    "several gateways": ("cli.main", "api", "--workers", "2"),
    "worker": ("cli.main", "worker"),
    "background": ("cli.main", "background"),
    "keys": ("cli.main", "keys", "list"),
    "a bare gateway": ("api",),
    "a bare worker": ("worker",),
    "a bare background process": ("background",),
}


def run(command: tuple[str, ...], folder: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JITNEY_REDIS_URL", "JITNEY_DATA_DIR"))
    }
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**clean, "JITNEY_PORT": "0", "JITNEY_DATA_DIR": str(folder / "data"), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(port=free_port())
    yield server
    server.close()


@pytest.mark.parametrize("process", PROCESSES)
def test_a_malformed_url_is_one_line_without_the_password(process: str, tmp_path: Path) -> None:
    done = run(PROCESSES[process], tmp_path, REDIS_URL="redis://:s3cret@127.0.0.1:none/0")
    assert done.returncode == EX_CONFIG, done.stderr
    (line,) = done.stderr.splitlines()
    assert "JITNEY_REDIS_URL=redis://:***@127.0.0.1:none/0: it has no port from 1 to 65535" in line


@pytest.mark.parametrize("process", ["a bare gateway", "a bare worker", "a bare background process"])
def test_a_database_that_the_server_does_not_have_is_one_line(process: str, tmp_path: Path, server: Server) -> None:
    """Only the server knows its number of databases."""
    done = run(PROCESSES[process], tmp_path, REDIS_URL=f"redis://127.0.0.1:{server.port}/999")
    assert done.returncode == EX_CONFIG, done.stderr
    (line,) = done.stderr.splitlines()
    assert f"Redis at redis://127.0.0.1:{server.port}/999 cannot be used: DB index is out of range" in line


@pytest.mark.parametrize("process", ["a bare gateway", "a bare worker", "a bare background process"])
def test_require_durable_refuses_a_server_that_may_lose_jobs(process: str, tmp_path: Path, server: Server) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        done = run(PROCESSES[process], tmp_path, REDIS_URL=server.url, JITNEY_REQUIRE_DURABLE="true")
        client.config_set("maxmemory-policy", "noeviction")
    assert done.returncode == EX_CONFIG, done.stderr
    assert "JITNEY_REQUIRE_DURABLE is set, but Redis may lose data: maxmemory-policy is allkeys-lru" in done.stderr


def test_the_keys_verb_names_its_queue(tmp_path: Path, server: Server) -> None:
    named = run(PROCESSES["keys"], tmp_path, REDIS_URL=server.url)
    assert (named.returncode, named.stderr) == (0, f"jitney keys: the queue is {server.url} (JITNEY_REDIS_URL)\n")
    file = tmp_path / "url"
    file.write_text(server.url)
    named = run(PROCESSES["keys"], tmp_path, JITNEY_REDIS_URL_FILE=str(file))
    assert f"the queue is {server.url} (from {file}) (JITNEY_REDIS_URL_FILE)" in named.stderr
    with running_server(tmp_path / "data") as own:
        found = run(PROCESSES["keys"], tmp_path)
        assert (found.returncode, found.stderr) == (
            0,
            f"jitney keys: the queue is {own.url} (JITNEY_DATA_DIR={tmp_path / 'data'})\n",
        )


@pytest.mark.parametrize("was_there", [False, True], ids=["mistyped", "stopped"])
def test_the_keys_verb_needs_an_explicit_queue(tmp_path: Path, *, was_there: bool) -> None:
    """With a mistyped JITNEY_DATA_DIR keys were once created in any Redis at the default port."""
    if was_there:
        with running_server(tmp_path / "data"):
            pass
    done = run(PROCESSES["keys"], tmp_path)
    assert done.returncode == EX_UNAVAILABLE
    (line,) = done.stderr.splitlines()
    assert (
        f"JITNEY_REDIS_URL is not set, and no server runs in JITNEY_DATA_DIR={tmp_path / 'data'}: "
        "start `jitney up`" in line
    )


def test_an_unreachable_queue_is_one_line_with_its_address(tmp_path: Path) -> None:
    done = run(PROCESSES["keys"], tmp_path, REDIS_URL="unix://user:s3cret@/no/such/socket")
    assert done.returncode == EX_UNAVAILABLE
    told, why = done.stderr.splitlines()
    assert told == "jitney keys: the queue is unix://user:***@/no/such/socket (JITNEY_REDIS_URL)"
    assert why.startswith("jitney keys: cannot reach Redis: ")


def test_a_missing_data_folder_is_named_as_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QueueNotFound, match=r"no server runs in \.data \(JITNEY_DATA_DIR is not set\)"):
        locate({})
