"""The stations of one worker: they are put up and taken down while the others go on."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from jobs.contract.errors import StoreUnavailable
from model_runtime.model import Model
from worker.execution.model_runner import ModelRunner, WorkerResources, version_key
from worker.execution.pending_items import PendingItems
from worker.task_supervisor import TaskSupervisor

log = logging.getLogger("jitney.worker")

DRAIN_POLL_S = 0.01


class LoadedModels:
    """All model versions that this worker runs, by name. `catch_up`: waits until every hand-over so far is heard."""

    def __init__(
        self, resources: WorkerResources, loops: TaskSupervisor, catch_up: Callable[[], Awaitable[None]]
    ) -> None:
        self.runners: dict[str, ModelRunner] = {}
        self.pending_items: list[
            PendingItems
        ] = []  # also of those that are being taken down: their riders' leases are ours
        self._shared, self._loops, self._catch_up = resources, loops, catch_up
        self._going: list[ModelRunner] = []  # being taken down
        self._is_open = False

    def open(self) -> None:
        """Begin to take jobs."""
        self._is_open = True
        for runner in self.runners.values():
            runner.start(self._loops)

    async def put(self, model: Model) -> None:
        """Run a model version, in place of an earlier load of it: its lines stay, so nothing waits for nobody."""
        name = version_key(model)
        runner, old = ModelRunner(self._shared, model, self.pending_items), self.runners.get(name)
        if old is not None:
            self._going.append(old)
            await self._stop_claiming([old])
        self.runners[name] = runner
        self.pending_items.append(runner.pending)
        if self._is_open:
            runner.start(self._loops)
        if old is not None:
            await self._take_down([old], math.inf)

    async def remove(self, name: str) -> ModelRunner:
        """Run a model version no more; gives what is left of it."""
        runner = self.runners[name]
        self._going.append(runner)
        await self._stop_claiming([runner])
        del self.runners[name]
        await self._take_down([runner], math.inf)
        return runner

    async def close(self) -> None:
        """Take everything down, at the same time."""
        runners = [*dict.fromkeys((*self.runners.values(), *self._going))] if self._is_open else []
        await self._stop_claiming(runners)
        await self._take_down(runners, self._shared.settings.drain_s)

    async def _stop_claiming(self, runners: Sequence[ModelRunner]) -> None:
        """Let nobody in any more: neither by a claim nor handed over."""
        claim_task = [runner.claim_task for runner in runners]
        self._loops.expect_end(claim_task)
        for runner in runners:
            runner.claim_loop.close()
        # Not cut off in a claim: its jobs would wait for their leases' end.
        if claim_task:
            await asyncio.wait(claim_task, timeout=self._shared.store.settings.redis_timeout_s)
        await self._loops.cancel(claim_task)
        try:
            for runner in runners:
                model = runner.model
                await self._shared.store.withdraw_free_slots(model.name, model.version, self._shared.worker_id)
            await self._catch_up()
        except StoreUnavailable as error:
            log.warning("jobs may still be handed over, and go back when their leases end: %s", error)

    async def _take_down(self, runners: Sequence[ModelRunner], drain_s: float) -> None:
        """Let whoever is aboard arrive; after `drain_s` the rest goes back to the queue."""
        deadline = asyncio.get_running_loop().time() + drain_s
        while any(not runner.pending.is_empty for runner in runners):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(DRAIN_POLL_S)
        for runner in runners:
            if held := runner.pending.held():
                log.warning("drained for %g s; %d jobs go back to the queue", drain_s, len(held))
                with suppress(StoreUnavailable):  # then they go back when their leases end
                    await self._shared.store.release(self._shared.worker_id, held)
                runner.pending.discard(held)
            await self._loops.cancel(runner.loop_tasks)
            self.pending_items.remove(runner.pending)
            if runner in self._going:
                self._going.remove(runner)
