"""Loads model versions in a separate thread, one at a time, and remembers the result of each."""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from model_runtime.engine.open_engine import Hardware
from model_runtime.model import Model, load_model
from model_runtime.repository.repository import ModelFolder
from model_runtime.spec.model_toml import ModelError
from worker.versions.load_crash_log import LoadCrashLog

log = logging.getLogger("jitney.worker")


class VersionFingerprint(NamedTuple):
    """State of a version: a fingerprint of its files, and the number of admin requests to load it."""

    files: str
    requests: int = 0


class Loader:
    """Loads versions, named `<name> <version>`. `failed`: version → error. `loading`: the version being loaded."""

    def __init__(self, crash_log: LoadCrashLog, hardware: Hardware) -> None:
        self._crash_log, self._hardware = crash_log, hardware
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._tried: dict[str, VersionFingerprint] = {}
        self._observed: Mapping[str, VersionFingerprint] = {}
        self._future: Future[Model] | None = None
        self.failed: dict[str, str] = {}
        self.loading: list[str] = []

    @property
    def is_busy(self) -> bool:
        """Return whether a load is under way, which cannot be stopped."""
        return self._future is not None and not self._future.done()

    def observe_folder(self, fingerprints: Mapping[str, VersionFingerprint]) -> None:
        """Record the folder's state; files with the same fingerprint next time are complete, not being written."""
        self._observed = fingerprints

    def is_due(self, name: str, fingerprint: VersionFingerprint) -> bool:
        """Return whether a desired version should be loaded now, for the first time or again."""
        tried = self._tried.get(name)
        if tried == fingerprint:
            return False
        is_settled = name in self._observed and self._observed[name].files == fingerprint.files
        return is_settled or fingerprint.requests > (tried.requests if tried else 0)

    def can_load(self, name: str, fingerprint: VersionFingerprint) -> bool:
        """Return whether a version has not failed to load in its present state."""
        return name not in self.failed or self._tried.get(name) != fingerprint

    def first(self, names: list[str]) -> str:
        """Return the version to load first; versions that a worker died of come last."""
        return min(names, key=lambda name: (self._crash_log.is_suspect(name), name))

    async def load(self, name: str, fingerprint: VersionFingerprint, folder: ModelFolder) -> Model | None:
        """Load and warm up a version; returns None on failure, with the error in `failed`."""
        self._tried[name], self._future = fingerprint, None
        key = " ".join(map(str, fingerprint))
        if self._crash_log.is_blocked(name, key):
            self._fail(
                name, f"{folder.onnx}: workers died while they loaded it; it stays unloaded until its files change"
            )
            return None
        self.loading = [name]
        try:
            with self._crash_log.loading(name, key):
                self._future = self._thread.submit(_load, folder, self._hardware)
                model = await asyncio.wrap_future(self._future)
        except ModelError as error:
            self._fail(name, str(error))
            return None
        finally:
            self.loading = []
        self.failed.pop(name, None)
        return model

    def forget(self, name: str) -> None:
        """Forget the results of a version that is gone or no longer run."""
        self._tried.pop(name, None)
        self.failed.pop(name, None)

    def _fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason
        log.error("model %s is not served: %s", name.partition(" ")[0], reason)


def _load(folder: ModelFolder, hardware: Hardware) -> Model:
    """Load and warm up a model, in a thread; raises ModelError only."""
    try:
        model = load_model(folder, hardware)
    except ModelError:
        raise
    except MemoryError as error:
        raise ModelError(folder.onnx, None, "not enough memory to load it") from error
    except BaseException as error:  # custom code may raise anything
        raise ModelError(folder.path, None, f"cannot load it: {type(error).__name__}: {error}") from error
    largest = model.largest_warm_batch
    warmed = f"warmed up for batches of up to {largest}" if largest else "not warmed up"
    log.info("%s %s: %s", folder.name, folder.version, model.summary)
    log.debug("model %s version %s loaded in %.0f ms, %s", folder.name, folder.version, model.load_ms, warmed)
    log.debug("model %s runs on %s", folder.name, model.running_on)
    return model
