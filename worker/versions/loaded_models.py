"""The model runners of one worker: starts and stops them while the others go on."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.task_supervisor import TaskSupervisor
from model_runtime.model import Model
from worker.execution.model_runner import ModelRunner, WorkerResources, version_key
from worker.execution.pending_items import PendingItems

log = logging.getLogger("jitney.worker")

DRAIN_POLL_S = 0.01


class LoadedModels:
    """All loaded model versions by name. `catch_up` waits until all handoffs sent so far have been received."""

    def __init__(
        self, resources: WorkerResources, supervisor: TaskSupervisor, catch_up: Callable[[], Awaitable[None]]
    ) -> None:
        self.runners: dict[str, ModelRunner] = {}
        # Includes those of runners that are being stopped, whose leases must be renewed.
        self.pending_items: list[PendingItems] = []
        self._resources, self._supervisor, self._catch_up = resources, supervisor, catch_up
        self._stopping: list[ModelRunner] = []
        self._is_open = False

    def open(self) -> None:
        """Start all runners."""
        self._is_open = True
        for runner in self.runners.values():
            runner.start(self._supervisor)

    async def put(self, model: Model) -> None:
        """Run a model version, in place of an earlier load of it. The queue of the version stays, so no job is lost."""
        name = version_key(model)
        runner, old = ModelRunner(self._resources, model, self.pending_items), self.runners.get(name)
        if old is not None:
            self._stopping.append(old)
            await self._stop_claiming([old])
        self.runners[name] = runner
        self.pending_items.append(runner.pending)
        if self._is_open:
            runner.start(self._supervisor)
        if old is not None:
            await self._drain([old], math.inf)
            with suppress(StoreUnavailable):
                await old.histogram_buffer.flush(self._resources.store.connection, model.name)

    async def remove(self, name: str) -> ModelRunner:
        """Stop running a model version; returns its runner, which still has unflushed metrics."""
        runner = self.runners[name]
        self._stopping.append(runner)
        await self._stop_claiming([runner])
        del self.runners[name]
        await self._drain([runner], math.inf)
        self._resources.device.forget(name)
        return runner

    async def close(self) -> None:
        """Stop all runners, concurrently."""
        runners = [*dict.fromkeys((*self.runners.values(), *self._stopping))] if self._is_open else []
        await self._stop_claiming(runners)
        await self._drain(runners, self._resources.settings.drain_s)

    async def _stop_claiming(self, runners: Sequence[ModelRunner]) -> None:
        """Stop claims and handoffs of these runners."""
        claim_tasks = [runner.claim_task for runner in runners]
        self._supervisor.expect_end(claim_tasks)
        for runner in runners:
            runner.claim_loop.close()
        # A claim under way is not canceled at once: its jobs would wait until their leases end.
        if claim_tasks:
            await asyncio.wait(claim_tasks, timeout=self._resources.store.settings.redis_timeout_s)
        await self._supervisor.cancel(claim_tasks)
        try:
            for runner in runners:
                model = runner.model
                await self._resources.store.withdraw_free_slots(model.name, model.version, self._resources.worker_id)
            await self._catch_up()
            for runner in runners:
                await runner.claim_loop.finish_handoffs(self._resources.store.settings.redis_timeout_s)
        except StoreUnavailable as error:
            log.warning("jobs that are still handed over return to the queue when their leases end: %s", error)

    async def _drain(self, runners: Sequence[ModelRunner], drain_s: float) -> None:
        """Finish the claimed jobs; after `drain_s` seconds release the rest to the queue. Then stop the loops."""
        deadline = asyncio.get_running_loop().time() + drain_s
        while any(not runner.pending.is_empty for runner in runners):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(DRAIN_POLL_S)
        for runner in runners:
            if held := runner.pending.held():
                log.warning("drained for %g s; %d jobs return to the queue", drain_s, len(held))
                with suppress(StoreUnavailable):  # then they return to the queue when their leases end
                    await self._resources.store.release(self._resources.worker_id, held)
                runner.pending.discard(held)
            await self._supervisor.cancel(runner.loop_tasks)
            self.pending_items.remove(runner.pending)
            if runner in self._stopping:
                self._stopping.remove(runner)
