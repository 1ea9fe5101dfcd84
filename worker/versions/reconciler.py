"""Keeps what runs equal to what is wanted, while jobs go on: one version is loaded at a time, or let go.

What is wanted follows from the folder of models and from the plans in the queue alone, both looked at again and again:
a worker that is killed in the middle of a change goes on with it when it is back.
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
from worker.heartbeat.registration import WorkerRegistration
from worker.settings import WorkerSettings
from worker.versions import desired_versions, folder_snapshot
from worker.versions.digest_agreement import DigestAgreement
from worker.versions.folder_snapshot import FolderSnapshot
from worker.versions.hardware import hardware_of
from worker.versions.load_crash_log import LoadCrashLog
from worker.versions.loaded_models import LoadedModels
from worker.versions.loader import Loader, VersionFingerprint

log = logging.getLogger("jitney.worker")

PLAN_POLL_S = 2.0  # where the folder is not watched, the queue still is
OUTAGE_PAUSE_S = 0.5


class ModelReconciler:
    """All versions are named as `<name> <version>`. `chosen`: model → the version that it would give jobs to."""

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
        self._settings, self._store, self._loaded_models, self._registration = (
            settings,
            store,
            loaded_models,
            registration,
        )
        self._digest_agreement = digest_agreement
        self._loader = Loader(crash_log, hardware_of(settings))
        self._outage, self._unreadable = (
            OutageLog(log, "look at the plans for models"),
            OutageLog(log, "look at the models"),
        )
        self._plans: dict[str, RolloutPlan] = {}
        self._latest_snapshot = self._snapshot = FolderSnapshot({}, {})  # as it lies there, and what of it counts
        self._needed_by_queue: set[str] = set()
        self._wake = asyncio.Event()
        self.chosen: dict[str, str] = {}
        self.leaving: dict[str, float] = {}  # since when, on the monotonic clock

    @property
    def versions(self) -> dict[str, list[str]]:
        """List what lies in the folder, by model."""
        return {name: [*model_versions.fingerprints] for name, model_versions in self._latest_snapshot.models.items()}

    @property
    def broken(self) -> Mapping[str, str]:
        """Say which models can not be read as a whole, and why."""
        return self._snapshot.broken

    @property
    def unloadable(self) -> dict[str, str]:
        """Say which versions could not be loaded and why, and which could not be loaded again."""
        gone = {
            name: "its files are gone from the folder: it runs from memory"
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
        """Whether a model is being loaded, which nothing can stop."""
        return self._loader.is_busy

    @property
    def loading(self) -> list[str]:
        """Name the version that is being loaded, if one is."""
        return self._loader.loading

    def refresh_now(self) -> None:
        """Have the loop look at once."""
        self._wake.set()

    async def begin(self) -> None:
        """Load what is wanted, before anything runs; waits for the queue, which has the plans."""
        while not await self._read_plans():  # noqa: ASYNC110 (a server that is away tells nobody when it is back)
            await asyncio.sleep(OUTAGE_PAUSE_S)
        await self._read_folder()
        self._snapshot = self._latest_snapshot
        self._loader.observe_folder(self._fingerprints())
        while True:
            try:
                await self._load_all()
            except StoreUnavailable as error:
                self._outage.began(error)
                await asyncio.sleep(OUTAGE_PAUSE_S)
            else:
                self._outage.ended()
                return

    async def run(self) -> None:
        """Look until cancelled."""
        interval_s = self._settings.models_poll_s or PLAN_POLL_S
        while True:
            self._wake.clear()
            orders = self._admin_plans()
            if await self._read_plans():
                await self._read_folder()
                if self._settings.models_poll_s or orders != self._admin_plans():
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

    # ---- what is there, and what is wanted

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
            found = await asyncio.to_thread(
                folder_snapshot.take_snapshot, self._settings.models_dir, self._settings.chosen
            )
        except ModelError as error:
            self._unreadable.began(error)
            return
        self._unreadable.ended()
        if found.is_empty and self._loaded_models.runners:
            return  # a folder that is empty all at once is one that is not mounted
        for name, reason in found.broken.items():
            if self._latest_snapshot.broken.get(name) != reason:
                log.error("model %s is not served: %s", name, reason)
        before, self._latest_snapshot = (self.versions, self._latest_snapshot.broken), found
        if before != (self.versions, found.broken):
            self._registration.changed()

    async def _find_needed_by_queue(self) -> set[str]:
        """Find versions that nobody runs any more, and jobs wait for: whatever was missed, they are run."""
        announced = await worker_registry.read_cluster_state(self._store.connection)
        recalled = set()
        for card in announced.cards:
            name, version = card["name"], card["version"]
            unserved = f"{name} {version}" not in self._loaded_models.runners and not announced.serving(name, version)
            if unserved and self._is_in_folder(f"{name} {version}"):
                waiting = await self._store.depth(name, version)
                recalled.update([f"{name} {version}"] if any(waiting.values()) else [])
        return recalled

    def _is_in_folder(self, name: str) -> bool:
        return self._fingerprint(name) is not None

    def _fingerprint(self, name: str) -> VersionFingerprint | None:
        """Say what a version is at present; None where it has no files."""
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
        """Give what admins have said, without what gateways note."""
        said = {name: replace(plan, before="", bad={}, watch=None) for name, plan in self._plans.items()}
        return {name: plan for name, plan in said.items() if plan != replace(FOLLOW_FOLDER, stable=plan.stable)}

    def _plan(self, model: str) -> RolloutPlan:
        return self._plans.get(model, FOLLOW_FOLDER)

    def _desired(self) -> set[str]:
        """List the versions that are to run; notes which one of each model is chosen."""
        desired = set(self._needed_by_queue)
        running = [name.partition(" ") for name in self._loaded_models.runners]
        for model in {*self._snapshot.models, *self._snapshot.broken, *(model for model, _, _ in running)}:
            ours = {version for whose, _, version in running if whose == model}
            model_versions, plan = self._snapshot.models.get(model), self._plan(model)
            if model in self._snapshot.broken.keys() - self._snapshot.absent and not plan.unloaded:
                desired |= {f"{model} {version}" for version in ours}  # nobody can say what it is to become
                continue
            decision = desired_versions.desired_versions_of(
                model_versions, plan, ours, self.chosen.get(model, ""), partial(self._may_load, model)
            )
            self.chosen[model] = decision.choice
            desired |= {f"{model} {version}" for version in decision.versions}
        self.chosen = {model: version for model, version in self.chosen.items() if version}
        return desired

    def _may_load(self, model: str, version: str) -> bool:
        fingerprint = self._fingerprint(f"{model} {version}")
        return fingerprint is not None and self._loader.can_load(f"{model} {version}", fingerprint)

    # ---- what is done

    async def _load_all(self) -> None:
        """Load what is wanted and due; what could not be loaded may make another wanted."""
        refused: set[str] = set()  # their files are not those that are served: asked for again in the next look
        while due := [
            name
            for name in self._desired() - refused
            if (fingerprint := self._fingerprint(name)) and self._loader.is_due(name, fingerprint)
        ]:
            name = self._loader.first(due)
            if not await self._load(name):
                refused.add(name)

    async def _load(self, name: str) -> bool:
        """Load a version; False where other files of it are served."""
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
        """Take down what runs by files that are served no more: this worker was silent for long, and others came."""
        for name in self._digest_agreement.overruled() & self._loaded_models.runners.keys():
            log.warning("model %s is taken down: other files of it are served", name)
            self._loader.forget(name)
            runner = await self._loaded_models.remove(name)
            self._digest_agreement.running.pop(name, None)
            self._registration.changed()
            await runner.histogram_buffer.tell(self._store.connection, runner.model.name)

    async def _unload_unwanted(self) -> None:
        """Take down what is no longer wanted, once its lines are empty and every gateway must have heard of it."""
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
        await runner.histogram_buffer.tell(self._store.connection, model)
        if not self._is_in_folder(name):
            announced = await worker_registry.read_cluster_state(self._store.connection)
            if announced.serving(model, version) <= 1:  # ourselves, at our last word
                await worker_registry.forget_version(self._store.connection, model, version)
        self._registration.changed()
        log.info("model %s version %s is unloaded", model, version)
