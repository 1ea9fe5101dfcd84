"""Records on disk which version this process is loading, to block a version whose load crashes workers.

A file may crash the runtime or exhaust memory, which ends the process with all its models. The first death may have
another cause, because batches run meanwhile. So the next worker tries the version once more on start, before it runs
anything. After a second death the version is blocked until its files change or an admin requests it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import orjson

log = logging.getLogger("jitney.worker")

MAX_CRASHES: Final = 2


class LoadCrashLog:
    """Deaths by version, named `<name> <version>`, each with the fingerprint of the version at that time."""

    def __init__(self, path: Path | None) -> None:
        """Read the log of the last worker; without a path nothing is recorded."""
        self._path = path
        self._crashes: dict[str, list[str]] = {}  # name → a fingerprint for each death
        self._read_previous()

    def is_suspect(self, name: str) -> bool:
        """Return whether a worker died while it loaded this version, with any fingerprint."""
        return name in self._crashes

    def is_blocked(self, name: str, fingerprint: str) -> bool:
        """Return whether MAX_CRASHES workers have died while they loaded this version with this fingerprint."""
        return self._crashes.get(name, []).count(fingerprint) >= MAX_CRASHES

    @contextmanager
    def loading(self, name: str, fingerprint: str) -> Iterator[None]:
        """Record that the version is being loaded, until the block ends in any way."""
        self._write(name, fingerprint)
        try:
            yield
        finally:
            self._crashes.pop(name, None)
            self._write()

    def _read_previous(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            content = orjson.loads(self._path.read_bytes())
            self._crashes = {str(name): list(fingerprints) for name, fingerprints in content["deaths"].items()}
            if content["loading"]:
                name, fingerprint = content["loading"]
                self._crashes.setdefault(name, []).append(fingerprint)
                log.warning("the last worker died while it loaded %s", name)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            log.warning("cannot read which version the last worker was loading: %s", error)
        self._write()

    def _write(self, *loading: str) -> None:
        if self._path is not None:
            new = self._path.with_name(f"{self._path.name}.new")
            new.write_bytes(orjson.dumps({"deaths": self._crashes, "loading": loading}))
            new.replace(self._path)
