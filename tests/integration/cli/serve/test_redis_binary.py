"""Which server binary may open which data: one that cannot read a queue's data never touches it."""

import stat
from pathlib import Path

import pytest

from cli.serve import redis_binary
from cli.serve.redis_binary import RedisEngine
from cli.serve.start_errors import CannotStart


def redis(major: int, minor: int, patch: int = 0, path: str = "/usr/bin/redis-server") -> RedisEngine:
    return RedisEngine("redis", (major, minor, patch), Path(path))


def valkey(major: int, minor: int, patch: int = 0, path: str = "/usr/bin/valkey-server") -> RedisEngine:
    return RedisEngine("valkey", (major, minor, patch), Path(path))


def test_a_new_folder_uses_the_first_server_found() -> None:
    assert redis_binary.choose_engine(None, [redis(7, 0), valkey(9, 1)]) == redis(7, 0)


def test_a_redis_older_than_7_is_skipped() -> None:
    assert redis_binary.choose_engine(None, [redis(6, 2), valkey(9, 1)]) == valkey(9, 1)


def test_without_a_server_the_error_says_what_to_install() -> None:
    with pytest.raises(
        CannotStart, match=r'(?s)pip install -e "\.\[embedded\]".*JITNEY_REDIS_URL.*redis 6.0.16 .*older'
    ):
        redis_binary.choose_engine(None, [redis(6, 0, 16)])


@pytest.mark.parametrize(
    ("pinned", "found", "chosen"),
    [
        (redis(7, 0), [valkey(9, 1), redis(7, 0)], redis(7, 0)),
        (redis(7, 0, 15), [redis(7, 0, 11)], redis(7, 0, 11)),
        (redis(7, 0), [redis(8, 4)], redis(8, 4)),
        (redis(7, 2), [valkey(9, 1)], valkey(9, 1)),
        (valkey(8, 0), [redis(7, 0), valkey(9, 1, path="/wheel")], valkey(9, 1, path="/wheel")),
        (valkey(9, 1, path="/wheel"), [valkey(9, 2), valkey(9, 1, path="/wheel")], valkey(9, 1, path="/wheel")),
    ],
)
def test_data_is_opened_by_its_own_server_or_a_compatible_one(
    pinned: RedisEngine, found: list[RedisEngine], chosen: RedisEngine
) -> None:
    assert redis_binary.choose_engine(pinned, found) == chosen


@pytest.mark.parametrize(
    ("pinned", "found"),
    [
        (valkey(9, 1), redis(7, 0)),
        (valkey(9, 1), redis(8, 4)),
        (valkey(9, 1), valkey(8, 0)),
        (redis(8, 0), redis(7, 4)),
        (redis(7, 4), valkey(9, 1)),
    ],
)
def test_data_is_not_opened_by_an_incompatible_server(pinned: RedisEngine, found: RedisEngine) -> None:
    with pytest.raises(CannotStart, match=f"written by {pinned.family}"):
        redis_binary.choose_engine(pinned, [found])


def test_a_pin_is_read_back_as_written(tmp_path: Path) -> None:
    redis_binary.write_pin(tmp_path / "engine", valkey(9, 1, 2))
    assert redis_binary.read_pin(tmp_path / "engine") == valkey(9, 1, 2)


@pytest.mark.parametrize("text", ["", "[]", '{"engine": "redis"}', '{"engine": "redis", "version": "7", "path": "/x"}'])
def test_a_broken_pin_is_an_error_and_not_a_new_folder(tmp_path: Path, text: str) -> None:
    (tmp_path / "engine").write_text(text)
    with pytest.raises(CannotStart, match="which names the server that wrote this data folder"):
        redis_binary.read_pin(tmp_path / "engine")


def test_a_binary_is_identified_by_its_own_output(tmp_path: Path) -> None:
    link = tmp_path / "redis-server"
    link.write_text("#!/bin/sh\necho 'Valkey server v=8.1.3 sha=00000000:0 malloc=libc'\n")
    link.chmod(stat.S_IRWXU)
    assert redis_binary.probe_engine(link) == RedisEngine("valkey", (8, 1, 3), link)


def test_a_program_that_is_no_server_is_refused(tmp_path: Path) -> None:
    assert redis_binary.probe_engine(tmp_path / "missing") is None
    assert redis_binary.probe_engine(Path("/bin/true")) is None
