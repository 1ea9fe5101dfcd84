"""Ensures that all workers serve identical files for a model version, by comparing file digests through Redis.

A worker announces a digest of its files before it loads a version. The files announced first are served until no live
worker has them. A worker with other files does not serve that version and logs the difference.
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
    """The file digests of this worker, compared with the served ones. Versions are named `<name> <version>`.

    `announced`: version → digest of the files that this worker would serve; `running`: of the files it has loaded.
    """

    def __init__(self, connection: RedisClient, worker_id: str, ttl_s: float) -> None:
        self._connection, self._worker_id, self._ttl_s = connection, worker_id, ttl_s
        self.on_overruled: Callable[[], None] = lambda: None  # called when this worker must stop serving a version
        self._read: dict[str, tuple[str, str]] = {}  # version → fingerprint of its files, and their digest
        self._served: dict[str, str] = {}
        self.announced: dict[str, str] = {}
        self.running: dict[str, str] = {}
        self.refused: dict[str, str] = {}  # version → reason why it is not served here

    async def may_load(self, version: str, fingerprint: str, folder: ModelFolder) -> bool:
        """Announce a version's files; returns whether they are the served ones. Raises StoreUnavailable.

        `fingerprint`: names, sizes and times of the files. The files are read again only if it changes.
        """
        if self._read.get(version, ("",))[0] != fingerprint:
            try:
                self._read[version] = fingerprint, await asyncio.to_thread(compute_digest, folder)
            except (ModelError, OSError):  # loading it will report the error
                return True
        self.announced[version] = self._read[version][1]
        await self.renew()
        return version not in self.refused

    async def loaded(self, version: str, *, succeeded: bool) -> None:
        """Record the result of a load; after a failure other files may be served. Raises StoreUnavailable."""
        if succeeded:
            self.running[version] = self.announced.get(version, "")
        elif version in self.running:
            self.announced[version] = self.running[version]
            await self.renew()
        else:
            await self.forget([version])

    async def renew(self) -> None:
        """Announce this worker's digests again, before they expire. Raises StoreUnavailable."""
        self._served = await worker_registry.claim_digests(
            self._connection, self._worker_id, self.announced, self._ttl_s
        )
        differing = {version for version, served in self._served.items() if served != self.announced.get(version)}
        if refused := differing - self.refused.keys():
            cluster = await worker_registry.read_cluster_state(self._connection)
            self.refused |= {version: self._reason(version, cluster) for version in refused}
            for version in refused:
                log.warning("model %s", self.refused[version])
        for version in self.refused.keys() - differing:
            log.info("model %s: its files now match the served ones, or no other files are served", version)
            del self.refused[version]
        if self.overruled():
            self.on_overruled()

    def overruled(self) -> set[str]:
        """Return the versions that this worker must stop running: it has loaded other files than those served.

        Excludes versions whose served files it has by now: they are loaded in place of the others.
        """
        return {v for v in self.refused.keys() & self.running.keys() if self._served[v] != self.running[v]}

    async def forget(self, versions: list[str]) -> None:
        """Announce that this worker no longer has these versions. Raises StoreUnavailable."""
        gone = {version: self.announced.pop(version) for version in versions if version in self.announced}
        for by_version in (self._read, self._served, self.running, self.refused):
            for version in versions:
                by_version.pop(version, None)
        await worker_registry.claim_digests(self._connection, self._worker_id, gone, 0)

    def _reason(self, version: str, cluster: ClusterState) -> str:
        served = self._served[version]
        hosts = sorted({worker.host for worker in cluster.workers if worker.digests.get(version) == served})
        where = f" on {', '.join(hosts[:3])}" if hosts else " by another worker"
        name, _, number = version.partition(" ")
        if version in self.running:
            return (
                f"{name} version {number}: its changed files (digest {self.announced[version]}) are not loaded while "
                f"others are served{where} (digest {served}); this worker continues with the loaded ones"
            )
        return (
            f"{name} version {number} is not served by this worker: its files (digest {self.announced[version]}) "
            f"differ from those served{where} (digest {served}); make them equal, or add a version"
        )
