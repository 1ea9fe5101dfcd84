"""Ensures that all workers serve identical files for a model version, by comparing file digests through Redis.

A worker announces a digest of its files before it loads a version. Those that were announced first are served, until no
live worker has them; a worker with others does not serve that version, and says so.
"""

import asyncio
import logging
from collections.abc import Callable

from jobs.models import worker_registry
from jobs.models.worker_registry import ClusterState
from jobs.redis_client.client import RedisClient
from model_runtime.repository.repository import ModelFolder
from model_runtime.repository.version_digest import compute_digest
from model_runtime.spec.model_toml import ModelError

log = logging.getLogger("jitney.worker")


class DigestAgreement:
    """The files of this worker beside those that are served. Versions are `<name> <version>`.

    `announced`: version → the digest that this worker would serve. `running`: version → the digest of what it serves.
    """

    def __init__(self, connection: RedisClient, worker_id: str, ttl_s: float) -> None:
        self._connection, self._worker_id, self._ttl_s = connection, worker_id, ttl_s
        self.on_overruled: Callable[[], None] = lambda: None  # called where this worker has to stop serving a version
        self._read: dict[str, tuple[str, str]] = {}  # version → what its files looked like, and their digest
        self._served: dict[str, str] = {}
        self.announced: dict[str, str] = {}
        self.running: dict[str, str] = {}
        self.refused: dict[str, str] = {}  # version → why it is not served here

    async def may_load(self, version: str, fingerprint: str, folder: ModelFolder) -> bool:
        """Announce a version's files; tells whether they are those that are served. Raises StoreUnavailable.

        `looks`: what the files look like from outside; while that stays the same they are not read again.
        """
        if self._read.get(version, ("",))[0] != fingerprint:
            try:
                self._read[version] = fingerprint, await asyncio.to_thread(compute_digest, folder)
            except (ModelError, OSError):  # loading it reports what is wrong
                return True
        self.announced[version] = self._read[version][1]
        await self.renew()
        return version not in self.refused

    async def loaded(self, version: str, *, succeeded: bool) -> None:
        """Note what came of loading a version; one that failed makes way for others' files. Raises StoreUnavailable."""
        if succeeded:
            self.running[version] = self.announced.get(version, "")
        elif version in self.running:
            self.announced[version] = self.running[version]
            await self.renew()
        else:
            await self.forget([version])

    async def renew(self) -> None:
        """Announce again what this worker has, which counts for a while only. Raises StoreUnavailable."""
        self._served = await worker_registry.claim_digests(
            self._connection, self._worker_id, self.announced, self._ttl_s
        )
        differing = {one for one, served in self._served.items() if served != self.announced.get(one)}
        if news := differing - self.refused.keys():
            found = await worker_registry.read_cluster_state(self._connection)
            self.refused |= {one: self._reason(one, found) for one in news}
            for one in news:
                log.warning("model %s", self.refused[one])
        for one in self.refused.keys() - differing:
            log.info("model %s: its files are those that are served, or the others are gone", one)
            del self.refused[one]
        if self.overruled():
            self.on_overruled()

    def overruled(self) -> set[str]:
        """List the versions that this worker runs by other files than those that are served: it has to stop.

        Not those whose files it has by now: they are loaded in place of the others.
        """
        return {one for one in self.refused.keys() & self.running.keys() if self._served[one] != self.running[one]}

    async def forget(self, versions: list[str]) -> None:
        """Announce that this worker has these versions no more. Raises StoreUnavailable."""
        gone = {one: self.announced.pop(one) for one in versions if one in self.announced}
        for known in (self._read, self._served, self.running, self.refused):
            for one in versions:
                known.pop(one, None)
        await worker_registry.claim_digests(self._connection, self._worker_id, gone, 0)

    def _reason(self, version: str, found: ClusterState) -> str:
        served = self._served[version]
        hosts = sorted({one.host for one in found.workers if one.digests.get(version) == served})
        where = f" on {', '.join(hosts[:3])}" if hosts else " by another worker"
        name, _, number = version.partition(" ")
        if version in self.running:
            return (
                f"{name} version {number}: its changed files (digest {self.announced[version]}) are not loaded while "
                f"others are served{where} (digest {served}); this worker goes on with what it has loaded"
            )
        return (
            f"{name} version {number} is not served by this worker: its files (digest {self.announced[version]}) "
            f"differ from those that are served{where} (digest {served}); make them the same, or raise the version"
        )
