"""Loads model versions in a thread of its own, one at a time, and remembers what came of each."""

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from model_runtime.engine.open_engine import Hardware
from model_runtime.model import Model, load_model
from model_runtime.repository.repository import ModelFolder
from model_runtime.spec.model_toml import ModelError
from worker.versions.load_crash_log import LoadCrashLog
from worker.versions.warmup import warm_up

log = logging.getLogger("jitney.worker")


class VersionFingerprint(NamedTuple):
    """What a version is at some time: what its files look like, and how often an admin has asked for it."""

    files: str
    asked: int = 0


class Loader:
    """`failed`: version → why it could not be loaded. `loading`: the one under way. Versions are `<name> <version>`."""

    def __init__(self, crash_log: LoadCrashLog, hardware: Hardware) -> None:
        self._crash_log, self._hardware = crash_log, hardware
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._tried: dict[str, VersionFingerprint] = {}
        self._seen: Mapping[str, VersionFingerprint] = {}
        self._under_way: Future[Model] | None = None
        self.failed: dict[str, str] = {}
        self.loading: list[str] = []

    @property
    def is_busy(self) -> bool:
        """Whether the thread works, which nothing can stop."""
        return self._under_way is not None and not self._under_way.done()

    def observe_folder(self, fingerprints: Mapping[str, VersionFingerprint]) -> None:
        """Take in what lies in the folder; files that look the same the next time are not being written."""
        self._seen = fingerprints

    def is_due(self, name: str, fingerprint: VersionFingerprint) -> bool:
        """Whether a version that is wanted is to be loaded now, for the first time or anew."""
        tried = self._tried.get(name)
        if tried == fingerprint:
            return False
        is_settled = name in self._seen and self._seen[name].files == fingerprint.files
        return is_settled or fingerprint.asked > (tried.asked if tried else 0)

    def can_load(self, name: str, fingerprint: VersionFingerprint) -> bool:
        """Whether a version, as it is, has not shown yet that it can not be loaded."""
        return name not in self.failed or self._tried.get(name) != fingerprint

    def first(self, names: list[str]) -> str:
        """Give the one to load first: those last that a worker has died of."""
        return min(names, key=lambda name: (self._crash_log.is_suspect(name), name))

    async def load(self, name: str, fingerprint: VersionFingerprint, folder: ModelFolder) -> Model | None:
        """Load and warm up; None where that fails, and then `failed` says why."""
        self._tried[name], self._under_way = fingerprint, None
        words = " ".join(map(str, fingerprint))
        if self._crash_log.is_blocked(name, words):
            self._fail(
                name, f"{folder.onnx}: workers died while they loaded it; it is left alone until its files change"
            )
            return None
        self.loading = [name]
        try:
            with self._crash_log.loading(name, words):
                self._under_way = self._thread.submit(_load, folder, self._hardware)
                model = await asyncio.wrap_future(self._under_way)
        except ModelError as error:
            self._fail(name, str(error))
            return None
        finally:
            self.loading = []
        self.failed.pop(name, None)
        return model

    def forget(self, name: str) -> None:
        """Know nothing of a version any more: it is gone, or no longer run."""
        self._tried.pop(name, None)
        self.failed.pop(name, None)

    def _fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason
        log.error("model %s is not served: %s", name.partition(" ")[0], reason)


def _load(folder: ModelFolder, hardware: Hardware) -> Model:
    """Load in a thread; raises ModelError only."""
    started = time.monotonic()
    try:
        model = load_model(folder, hardware)
        sizes = warm_up(model)
    except ModelError:
        raise
    except MemoryError as error:
        raise ModelError(folder.onnx, None, "there is not enough memory to load it") from error
    except BaseException as error:  # a task of the user's own may do anything
        raise ModelError(folder.path, None, f"it can not be loaded: {type(error).__name__}: {error}") from error
    took_ms, largest = (time.monotonic() - started) * 1000, max(sizes, default=0)
    words = f"warm up to {largest} riders" if largest else "not warmed up"
    log.info("model %s version %s loaded in %.0f ms, %s", folder.name, folder.version, took_ms, words)
    log.info("model %s runs on %s", folder.name, model.running_on)
    return model
