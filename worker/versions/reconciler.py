"""Reconciles the running model versions with the desired ones: loads and unloads one version at a time.

The desired versions follow from the models folder and the plans in the queue alone, which are read periodically. So a
worker that is killed during a change continues it after its restart.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from jobs.contract.errors import StoreUnavailable
from jobs.models import rollout_plan, worker_registry
from jobs.models.rollout_plan import FOLLOW_FOLDER, RolloutPlan
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.outage_log import OutageLog
from jobs.store.job_store import JobStore
from model_runtime.spec.model_toml import ModelError
from worker.heartbeat import WorkerRegistration
from worker.settings import WorkerSettings
from worker.versions import desired_versions, folder_snapshot
from worker.versions.digest_agreement import DigestAgreement
from worker.versions.folder_snapshot import FolderSnapshot
from worker.versions.hardware import hardware_of
from worker.versions.load_crash_log import LoadCrashLog
from worker.versions.loaded_models import LoadedModels
from worker.versions.loader import Loader, VersionFingerprint

log = logging.getLogger("jitney.worker")

PLAN_POLL_S = 2.0  # poll interval of the plans if the folder is not polled
OUTAGE_PAUSE_S = 0.5


class ModelReconciler:
    """Reconciles one worker. Versions are named `<name> <version>`. `chosen`: model → version that should get jobs."""

    def __init__(
        self,
        settings: WorkerSettings,
        store: JobStore,
        loaded_models: LoadedModels,
        registration: WorkerRegistration,
        crash_log: LoadCrashLog,
        *,
        digest_agreement: DigestAgreement,
    ) -> None:
        self._settings, self._store, self._loaded_models = settings, store, loaded_models
        self._registration, self._digest_agreement = registration, digest_agreement
        self._loader = Loader(crash_log, hardware_of(settings))
        self._outage = OutageLog(log, "read the model plans")
        self._folder_outage = OutageLog(log, "read the models folder")
        self._plans: dict[str, RolloutPlan] = {}
        self._latest_snapshot = self._snapshot = FolderSnapshot({}, {})  # the latest one, and the one in effect
        self._needed_by_queue: set[str] = set()
        self._wake = asyncio.Event()
        self.chosen: dict[str, str] = {}
        self.leaving: dict[str, float] = {}  # unwanted version → since when, on the monotonic clock

    @property
    def versions(self) -> dict[str, list[str]]:
        """Return the versions in the folder, by model."""
        return {name: [*model_versions.fingerprints] for name, model_versions in self._latest_snapshot.models.items()}

    @property
    def broken(self) -> Mapping[str, str]:
        """Return the models that cannot be read, with the error of each."""
        return self._snapshot.broken

    @property
    def unloadable(self) -> dict[str, str]:
        """Return the versions that could not be loaded, or loaded again, with the reason of each."""
        gone = {
            name: "its files are gone from the models folder; it still runs from memory"
            for name in self._loaded_models.runners
            if not self._is_in_folder(name) and name.partition(" ")[0] not in self._snapshot.broken
        }
        failed = {**self._digest_agreement.refused, **self._loader.failed}.items()
        return {
            **gone,
            **{name: why for name, why in failed if self._is_in_folder(name) or name in self._loaded_models.runners},
        }

    @property
    def is_busy(self) -> bool:
        """Return whether a version is being loaded, which cannot be stopped."""
        return self._loader.is_busy

    @property
    def loading(self) -> list[str]:
        """Return the version that is being loaded, if any."""
        return self._loader.loading

    def refresh_now(self) -> None:
        """Run the reconcile loop at once."""
        self._wake.set()

    async def begin(self) -> None:
        """Load the desired versions before any job runs; waits for the queue, which stores the plans."""
        while not await self._read_plans():  # noqa: ASYNC110 (no event tells that the server is back)
            await asyncio.sleep(OUTAGE_PAUSE_S)
        await self._read_folder()
        self._snapshot = self._latest_snapshot
        self._loader.observe_folder(self._fingerprints())
        await self._outage.retry(self._load_all, OUTAGE_PAUSE_S)

    async def run(self) -> None:
        """Reconcile periodically until cancelled."""
        interval_s = self._settings.models_poll_s or PLAN_POLL_S
        while True:
            self._wake.clear()
            plans_before = self._admin_plans()
            if await self._read_plans():
                await self._read_folder()
                if self._settings.models_poll_s or plans_before != self._admin_plans():
                    self._snapshot = self._latest_snapshot
                await self._reconcile()
            await wait_for_event(self._wake, interval_s)

    async def _reconcile(self) -> None:
        try:
            self._needed_by_queue = await self._find_needed_by_queue()
            await self._unload_overruled()
            await self._load_all()
            await self._unload_unwanted()
        except StoreUnavailable as error:
            self._outage.began(error)
        self._loader.observe_folder(self._fingerprints())

    # ---- observed and desired state

    async def _read_plans(self) -> bool:
        try:
            self._plans = await rollout_plan.read_plans(self._store.connection)
        except StoreUnavailable as error:
            self._outage.began(error)
            return False
        self._outage.ended()
        return True

    async def _read_folder(self) -> None:
        try:
            snapshot = await asyncio.to_thread(
                folder_snapshot.take_snapshot, self._settings.models_dir, self._settings.chosen
            )
        except ModelError as error:
            self._folder_outage.began(error)
            return
        self._folder_outage.ended()
        if snapshot.is_empty and self._loaded_models.runners:
            return  # a folder that suddenly is empty is probably not mounted
        for name, reason in snapshot.broken.items():
            if self._latest_snapshot.broken.get(name) != reason:
                log.error("model %s is not served: %s", name, reason)
        before, self._latest_snapshot = (self.versions, self._latest_snapshot.broken), snapshot
        if before != (self.versions, snapshot.broken):
            self._registration.changed()

    async def _find_needed_by_queue(self) -> set[str]:
        """Return versions that no worker runs although jobs wait for them; they are desired in any case."""
        cluster = await worker_registry.read_cluster_state(self._store.connection)
        needed = set()
        for card in cluster.cards:
            name, version = card["name"], card["version"]
            unserved = f"{name} {version}" not in self._loaded_models.runners and not cluster.serving(name, version)
            if unserved and self._is_in_folder(f"{name} {version}"):
                waiting = await self._store.depth(name, version)
                needed.update([f"{name} {version}"] if any(waiting.values()) else [])
        return needed

    def _is_in_folder(self, name: str) -> bool:
        return self._fingerprint(name) is not None

    def _fingerprint(self, name: str) -> VersionFingerprint | None:
        """Return the present state of a version, or None if it has no files."""
        model, _, version = name.partition(" ")
        model_versions = self._snapshot.models.get(model)
        if model_versions is None or version not in model_versions.fingerprints:
            return None
        return VersionFingerprint(model_versions.fingerprints[version], self._plan(model).asked.get(version, 0))

    def _fingerprints(self) -> dict[str, VersionFingerprint]:
        models = self._snapshot.models.items()
        names = [f"{model} {version}" for model, model_versions in models for version in model_versions.fingerprints]
        return {name: fingerprint for name in names if (fingerprint := self._fingerprint(name))}

    def _admin_plans(self) -> dict[str, RolloutPlan]:
        """Return the plans that admins have made, without the notes of gateways."""
        plans = {name: replace(plan, before="", bad={}, watch=None) for name, plan in self._plans.items()}
        return {name: plan for name, plan in plans.items() if plan != replace(FOLLOW_FOLDER, stable=plan.stable)}

    def _plan(self, model: str) -> RolloutPlan:
        return self._plans.get(model, FOLLOW_FOLDER)

    def _desired(self) -> set[str]:
        """Return the versions that should run; updates `chosen`."""
        desired = set(self._needed_by_queue)
        running = [name.partition(" ") for name in self._loaded_models.runners]
        for model in {*self._snapshot.models, *self._snapshot.broken, *(model for model, _, _ in running)}:
            own = {version for name, _, version in running if name == model}
            model_versions, plan = self._snapshot.models.get(model), self._plan(model)
            if model in self._snapshot.broken.keys() - self._snapshot.absent and not plan.unloaded:
                desired |= {f"{model} {version}" for version in own}  # its desired state is unknown
                continue
            decision = desired_versions.desired_versions_of(
                model_versions, plan, own, self.chosen.get(model, ""), partial(self._may_load, model)
            )
            self.chosen[model] = decision.choice
            desired |= {f"{model} {version}" for version in decision.versions}
        self.chosen = {model: version for model, version in self.chosen.items() if version}
        return desired

    def _may_load(self, model: str, version: str) -> bool:
        fingerprint = self._fingerprint(f"{model} {version}")
        return fingerprint is not None and self._loader.can_load(f"{model} {version}", fingerprint)

    # ---- actions

    async def _load_all(self) -> None:
        """Load desired versions that are due; a failure may make another version desired."""
        refused: set[str] = set()  # other files of these are served: tried again in the next round
        while due := [
            name
            for name in self._desired() - refused
            if (fingerprint := self._fingerprint(name)) and self._loader.is_due(name, fingerprint)
        ]:
            name = self._loader.first(due)
            if not await self._load(name):
                refused.add(name)

    async def _load(self, name: str) -> bool:
        """Load a version; returns False if other files of it are served."""
        fingerprint, (model, _, version) = self._fingerprint(name), name.partition(" ")
        if fingerprint is None:
            return False
        folder = self._snapshot.models[model].folder(version)
        if not await self._digest_agreement.may_load(name, fingerprint.files, folder):
            self._registration.changed()
            return False
        loading = asyncio.create_task(self._loader.load(name, fingerprint, folder))
        self._registration.changed()
        if (loaded := await loading) is not None:
            await self._loaded_models.put(loaded)
        await self._digest_agreement.loaded(name, succeeded=loaded is not None)
        self._registration.changed()
        return True

    async def _unload_overruled(self) -> None:
        """Unload versions whose files are no longer served: this worker was silent for long, and others were loaded."""
        for name in self._digest_agreement.overruled() & self._loaded_models.runners.keys():
            log.warning("model %s is unloaded: other files of it are served", name)
            self._loader.forget(name)
            runner = await self._loaded_models.remove(name)
            self._digest_agreement.running.pop(name, None)
            self._registration.changed()
            await runner.histogram_buffer.flush(self._store.connection, runner.model.name)

    async def _unload_unwanted(self) -> None:
        """Unload unwanted versions after JITNEY_UNLOAD_AFTER_S, once their queues are empty."""
        desired, now, before = self._desired(), time.monotonic(), set(self.leaving)
        unwanted = [name for name in self._loaded_models.runners if name not in desired]
        self.leaving = {name: self.leaving.get(name, now) for name in unwanted}
        if before != self.leaving.keys():
            self._registration.changed()
        for name, since in [*self.leaving.items()]:
            if now - since >= self._settings.unload_after_s and await self._is_idle(name):
                await self._remove(name)

    async def _is_idle(self, name: str) -> bool:
        model, _, version = name.partition(" ")
        waiting = await self._store.depth(model, version)
        return not any(waiting.values())

    async def _remove(self, name: str) -> None:
        model, _, version = name.partition(" ")
        runner = await self._loaded_models.remove(name)
        self._loader.forget(name)
        del self.leaving[name]
        await self._digest_agreement.forget([name])
        await runner.histogram_buffer.flush(self._store.connection, model)
        if not self._is_in_folder(name):
            cluster = await worker_registry.read_cluster_state(self._store.connection)
            if cluster.serving(model, version) <= 1:  # this worker, as registered last
                await worker_registry.forget_version(self._store.connection, model, version)
        self._registration.changed()
        log.info("model %s version %s is unloaded", model, version)
