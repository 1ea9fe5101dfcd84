"""Which versions this process is loading right now, in a file that outlives it: one that ends its worker is set apart.

A file may crash the runtime, or take more memory than there is; then the whole process is gone, with all other models.
A first death may be another's fault, for batches run meanwhile. So it is tried once more, when the successor starts and
runs nothing yet; after a second death it is left alone until its files change, or an admin asks for it.
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
    """Deaths by version, `<name> <version>`, and what of it was loaded then: its mark."""

    def __init__(self, path: Path | None) -> None:
        """Without a path nothing is noted."""
        self._path = path
        self._crashes: dict[str, list[str]] = {}  # name → a mark for each death
        self._take_over()

    def is_suspect(self, name: str) -> bool:
        """Whether a worker died while it loaded this version, whatever lay there then."""
        return name in self._crashes

    def is_blocked(self, name: str, fingerprint: str) -> bool:
        """Whether it has ended so many workers that it is to be left alone."""
        return self._crashes.get(name, []).count(fingerprint) >= MAX_CRASHES

    @contextmanager
    def loading(self, name: str, fingerprint: str) -> Iterator[None]:
        """Note that it is loaded now. However that ends, a death would have been no end."""
        self._write(name, fingerprint)
        try:
            yield
        finally:
            self._crashes.pop(name, None)
            self._write()

    def _take_over(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            noted = orjson.loads(self._path.read_bytes())
            self._crashes = {str(name): list(fingerprints) for name, fingerprints in noted["deaths"].items()}
            if noted["loading"]:
                name, fingerprint = noted["loading"]
                self._crashes.setdefault(name, []).append(fingerprint)
                log.warning("the worker before this one died while it loaded %s", name)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            log.warning("what was loaded when the last worker died can not be read: %s", error)
        self._write()

    def _write(self, *loading: str) -> None:
        if self._path is not None:
            new = self._path.with_name(f"{self._path.name}.new")
            new.write_bytes(orjson.dumps({"deaths": self._crashes, "loading": loading}))
            new.replace(self._path)
