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
from jobs.models.rollout_plan import FOLLOWS, Plan
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.outage_log import Outage
from jobs.store.job_store import JobStore
from model_runtime.spec.model_toml import ModelError
from worker.heartbeat.registration import Announcer
from worker.settings import WorkerSettings
from worker.versions import desired_versions, folder_snapshot
from worker.versions.digest_agreement import SameFiles
from worker.versions.folder_snapshot import Shelf
from worker.versions.hardware import hardware
from worker.versions.load_crash_log import LoadNotes
from worker.versions.loaded_models import Depot
from worker.versions.loader import Loader, Mark

log = logging.getLogger("jitney.worker")

LOOK_S = 2.0  # where the folder is not watched, the queue still is
OUTAGE_PAUSE_S = 0.5


class Keeper:
    """All versions are named as `<name> <version>`. `chosen`: model → the version that it would give jobs to."""

    def __init__(
        self,
        settings: WorkerSettings,
        store: JobStore,
        depot: Depot,
        announcer: Announcer,
        notes: LoadNotes,
        *,
        same_files: SameFiles,
    ) -> None:
        self._settings, self._store, self._depot, self._announcer = settings, store, depot, announcer
        self._same_files = same_files
        self._loader = Loader(notes, hardware(settings))
        self._outage, self._unreadable = Outage(log, "look at the plans for models"), Outage(log, "look at the models")
        self._plans: dict[str, Plan] = {}
        self._seen = self._shelf = Shelf({}, {})  # as it lies there, and what of it counts
        self._recalled: set[str] = set()
        self._wake = asyncio.Event()
        self.chosen: dict[str, str] = {}
        self.leaving: dict[str, float] = {}  # since when, on the monotonic clock

    @property
    def versions(self) -> dict[str, list[str]]:
        """List what lies in the folder, by model."""
        return {name: [*shelved.marks] for name, shelved in self._seen.models.items()}

    @property
    def broken(self) -> Mapping[str, str]:
        """Say which models can not be read as a whole, and why."""
        return self._shelf.broken

    @property
    def unloadable(self) -> dict[str, str]:
        """Say which versions could not be loaded and why, and which could not be loaded again."""
        gone = {
            name: "its files are gone from the folder: it runs from memory"
            for name in self._depot.stations
            if not self._lies_there(name) and name.partition(" ")[0] not in self._shelf.broken
        }
        failed = {**self._same_files.refused, **self._loader.failed}.items()
        return {**gone, **{name: why for name, why in failed if self._lies_there(name) or name in self._depot.stations}}

    @property
    def is_busy(self) -> bool:
        """Whether a model is being loaded, which nothing can stop."""
        return self._loader.is_busy

    @property
    def loading(self) -> list[str]:
        """Name the version that is being loaded, if one is."""
        return self._loader.loading

    def look_again(self) -> None:
        """Have the loop look at once."""
        self._wake.set()

    async def begin(self) -> None:
        """Load what is wanted, before anything runs; waits for the queue, which has the plans."""
        while not await self._read_plans():  # noqa: ASYNC110 (a server that is away tells nobody when it is back)
            await asyncio.sleep(OUTAGE_PAUSE_S)
        await self._read_shelf()
        self._shelf = self._seen
        self._loader.saw(self._marks())
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
        every_s = self._settings.models_watch_s or LOOK_S
        while True:
            self._wake.clear()
            orders = self._orders()
            if await self._read_plans():
                await self._read_shelf()
                if self._settings.models_watch_s or orders != self._orders():
                    self._shelf = self._seen
                await self._look()
            await wait_for_event(self._wake, every_s)

    async def _look(self) -> None:
        try:
            self._recalled = await self._find_recalled()
            await self._stop_overruled()
            await self._load_all()
            await self._let_go()
        except StoreUnavailable as error:
            self._outage.began(error)
        self._loader.saw(self._marks())

    # ---- what is there, and what is wanted

    async def _read_plans(self) -> bool:
        try:
            self._plans = await rollout_plan.read(self._store.connection)
        except StoreUnavailable as error:
            self._outage.began(error)
            return False
        self._outage.ended()
        return True

    async def _read_shelf(self) -> None:
        try:
            found = await asyncio.to_thread(folder_snapshot.look, self._settings.models_dir, self._settings.chosen)
        except ModelError as error:
            self._unreadable.began(error)
            return
        self._unreadable.ended()
        if found.is_empty and self._depot.stations:
            return  # a folder that is empty all at once is one that is not mounted
        for name, reason in found.broken.items():
            if self._seen.broken.get(name) != reason:
                log.error("model %s is not served: %s", name, reason)
        before, self._seen = (self.versions, self._seen.broken), found
        if before != (self.versions, found.broken):
            self._announcer.changed()

    async def _find_recalled(self) -> set[str]:
        """Find versions that nobody runs any more, and jobs wait for: whatever was missed, they are run."""
        announced = await worker_registry.announced(self._store.connection)
        recalled = set()
        for card in announced.cards:
            name, version = card["name"], card["version"]
            unserved = f"{name} {version}" not in self._depot.stations and not announced.serving(name, version)
            if unserved and self._lies_there(f"{name} {version}"):
                waiting = await self._store.depth(name, version)
                recalled.update([f"{name} {version}"] if any(waiting.values()) else [])
        return recalled

    def _lies_there(self, name: str) -> bool:
        return self._mark(name) is not None

    def _mark(self, name: str) -> Mark | None:
        """Say what a version is at present; None where it has no files."""
        model, _, version = name.partition(" ")
        shelved = self._shelf.models.get(model)
        if shelved is None or version not in shelved.marks:
            return None
        return Mark(shelved.marks[version], self._plan(model).asked.get(version, 0))

    def _marks(self) -> dict[str, Mark]:
        models = self._shelf.models.items()
        names = [f"{model} {version}" for model, shelved in models for version in shelved.marks]
        return {name: mark for name in names if (mark := self._mark(name))}

    def _orders(self) -> dict[str, Plan]:
        """Give what admins have said, without what gateways note."""
        said = {name: replace(plan, before="", bad={}, watch=None) for name, plan in self._plans.items()}
        return {name: plan for name, plan in said.items() if plan != replace(FOLLOWS, stable=plan.stable)}

    def _plan(self, model: str) -> Plan:
        return self._plans.get(model, FOLLOWS)

    def _wanted(self) -> set[str]:
        """List the versions that are to run; notes which one of each model is chosen."""
        wanted = set(self._recalled)
        running = [name.partition(" ") for name in self._depot.stations]
        for model in {*self._shelf.models, *self._shelf.broken, *(model for model, _, _ in running)}:
            ours = {version for whose, _, version in running if whose == model}
            shelved, plan = self._shelf.models.get(model), self._plan(model)
            if model in self._shelf.broken.keys() - self._shelf.absent and not plan.unloaded:
                wanted |= {f"{model} {version}" for version in ours}  # nobody can say what it is to become
                continue
            wish = desired_versions.of_model(
                shelved, plan, ours, self.chosen.get(model, ""), partial(self._may_load, model)
            )
            self.chosen[model] = wish.choice
            wanted |= {f"{model} {version}" for version in wish.versions}
        self.chosen = {model: version for model, version in self.chosen.items() if version}
        return wanted

    def _may_load(self, model: str, version: str) -> bool:
        mark = self._mark(f"{model} {version}")
        return mark is not None and self._loader.may_try(f"{model} {version}", mark)

    # ---- what is done

    async def _load_all(self) -> None:
        """Load what is wanted and due; what could not be loaded may make another wanted."""
        refused: set[str] = set()  # their files are not those that are served: asked for again in the next look
        while due := [
            name for name in self._wanted() - refused if (mark := self._mark(name)) and self._loader.is_due(name, mark)
        ]:
            name = self._loader.first(due)
            if not await self._load(name):
                refused.add(name)

    async def _load(self, name: str) -> bool:
        """Load a version; False where other files of it are served."""
        mark, (model, _, version) = self._mark(name), name.partition(" ")
        if mark is None:
            return False
        folder = self._shelf.models[model].folder(version)
        if not await self._same_files.may_load(name, mark.files, folder):
            self._announcer.changed()
            return False
        loading = asyncio.create_task(self._loader.load(name, mark, folder))
        self._announcer.changed()
        if (loaded := await loading) is not None:
            await self._depot.put(loaded)
        await self._same_files.loaded(name, succeeded=loaded is not None)
        self._announcer.changed()
        return True

    async def _stop_overruled(self) -> None:
        """Take down what runs by files that are served no more: this worker was silent for long, and others came."""
        for name in self._same_files.overruled() & self._depot.stations.keys():
            log.warning("model %s is taken down: other files of it are served", name)
            self._loader.forget(name)
            station = await self._depot.remove(name)
            self._same_files.running.pop(name, None)
            self._announcer.changed()
            await station.tally.tell(self._store.connection, station.model.name)

    async def _let_go(self) -> None:
        """Take down what is no longer wanted, once its lines are empty and every gateway must have heard of it."""
        wanted, now, before = self._wanted(), time.monotonic(), set(self.leaving)
        unwanted = [name for name in self._depot.stations if name not in wanted]
        self.leaving = {name: self.leaving.get(name, now) for name in unwanted}
        if before != self.leaving.keys():
            self._announcer.changed()
        for name, since in [*self.leaving.items()]:
            if now - since >= self._settings.unload_after_s and await self._is_idle(name):
                await self._remove(name)

    async def _is_idle(self, name: str) -> bool:
        model, _, version = name.partition(" ")
        waiting = await self._store.depth(model, version)
        return not any(waiting.values())

    async def _remove(self, name: str) -> None:
        model, _, version = name.partition(" ")
        station = await self._depot.remove(name)
        self._loader.forget(name)
        del self.leaving[name]
        await self._same_files.forget([name])
        await station.tally.tell(self._store.connection, model)
        if not self._lies_there(name):
            announced = await worker_registry.announced(self._store.connection)
            if announced.serving(model, version) <= 1:  # ourselves, at our last word
                await worker_registry.retire(self._store.connection, model, version)
        self._announcer.changed()
        log.info("model %s version %s is unloaded", model, version)
