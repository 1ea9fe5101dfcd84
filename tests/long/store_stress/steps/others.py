"""Other steps: listeners and their logs, statistics, plans, registrations, workers that lose notifications."""

from collections import Counter
from typing import Final

from jobs.contract.job import LANES
from jobs.contract.lifecycle import FINAL, State
from jobs.metrics.histograms import HistogramBuffer
from jobs.metrics.histograms import read_histograms as read_stats
from jobs.models import rollout_plan, worker_registry
from jobs.models.worker_registry import WorkerReport
from jobs.store import events
from jobs.tenants import stored_limits
from jobs.tenants.limits import LimitOverride
from tests.long.store_stress.model.ledger import Violation
from tests.long.store_stress.model.world import STATIONS, TENANTS, WORKERS, World, now_ms

LISTEN_S: Final = 0.5
ALIVE_S: Final = 5


class OtherSteps:
    """The memory of these steps: requests of a version, and reported batches."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked, self._told = Counter[str](), Counter[str]()

    async def listen(self) -> None:
        """Register a listener for some tenants."""
        listeners = self._world.rng.sample(TENANTS, self._world.rng.randint(0, 2))
        heard, _, _ = await self._world.call(lambda: events.register_listeners(self._world.store, listeners, LISTEN_S))
        if heard is not None:
            if heard < set(listeners):
                raise Violation(f"{listeners} listen, and {heard} are listened to")
            self._world.store.listened = heard

    async def read_log(self) -> None:
        """Read a tenant's log: each job's states are steps of the lifecycle, the final one last and once."""
        world, tenant = self._world, self._world.rng.choice(TENANTS)
        place = ".".join(["0-0"] * world.settings.shards)
        states: dict[str, list[str]] = {}
        while entries := await events.read_log(world.store, tenant, place):
            place = entries[-1].position
            for one in entries:
                states.setdefault(one.job_id, []).append(one.state)
        for job_id, seen in states.items():
            job = world.ledger.jobs[job_id]
            is_over = any(State(state) in FINAL for state in seen[:-1])
            if job.is_rerun:
                continue  # the log tells of two lives
            if job.sub.tenant != tenant or seen[-1] != job.state.value or is_over:
                raise Violation(f"the log of {tenant} says {seen} of {job}")

    async def depth(self) -> None:
        """Count the queued jobs of a model version, by lane; the time of retries is not exact."""
        world, station = self._world, self._world.rng.choice(STATIONS)
        jobs = [job for job in world.ledger.open.values() if job.state == State.QUEUED and job.station == station]
        counted = await world.store.depth(*station)
        for lane in (*LANES, "suspect"):
            of_lane = [job for job in jobs if lane == ("suspect" if job.is_suspect else job.sub.lane)]
            least = sum(not job.due_until_ms for job in of_lane)
            if not least <= counted[lane] <= len(of_lane):
                raise Violation(f"{counted} jobs were counted at {station}, and in {lane} there are {of_lane}")

    async def count(self) -> None:
        """Add to the histograms: every reported value is counted once."""
        world, histogram_buffer = self._world, HistogramBuffer()
        histogram_buffer.observe("size", [4])
        _, _, fate = await world.call(lambda: histogram_buffer.flush(world.connection, "m"))
        self._told["m"] += fate != "unsent"
        found = await read_stats(world.connection, ["m"])
        counted = found["m"].get("size:4", 0)
        if counted != self._told["m"]:
            raise Violation(f"{counted} batches were counted of {self._told['m']}")

    async def plan(self) -> None:
        """Change a model's plan: each change is made once."""
        world, model = self._world, self._world.rng.choice(["m", "n"])
        changed, _, _ = await world.call(
            lambda: rollout_plan.update_plan(
                world.connection, model, lambda plan: rollout_plan.load_version(plan, "7", "1")
            )
        )
        plan = (await rollout_plan.read_plans(world.connection)).get(model, rollout_plan.FOLLOW_FOLDER)
        asked = plan.asked.get("7", 0)
        most = self._asked[model] + 1
        right = asked == most if changed is not None else self._asked[model] <= asked <= most
        if not right:
            raise Violation(f"version 7 of {model} was asked for {asked} times, not {most}")
        self._asked[model] = asked

    async def limit(self) -> None:
        """Change a tenant's limits in the queue: the new ones are stored, and all others stay."""
        world, tenant = self._world, self._world.rng.choice(TENANTS)
        if world.chance(0.2):
            wanted: dict[str, int | None] = {}
            await world.call(lambda: stored_limits.delete_limits(world.connection, tenant))
        else:
            among = {"weight": [None, 1, 3], "jobs": [None, 0, 6], "bytes": [None, 0, 2500], "running": [None, 0, 1, 3]}
            name = world.rng.choice(list(among))
            wanted = {name: world.rng.choice(among[name])}
            before = await stored_limits.read_limits(world.connection)
            changed, _, fate = await world.call(lambda: stored_limits.update_limits(world.connection, tenant, wanted))
            wanted = {**before.get(tenant, LimitOverride()).model_dump(exclude_none=True), **wanted}
            if changed is None and fate == "unsent":
                wanted = before.get(tenant, LimitOverride()).model_dump(exclude_none=True)
        kept = await stored_limits.read_limits(world.connection)
        if kept.get(tenant, LimitOverride()) != LimitOverride(**wanted):
            raise Violation(f"{tenant} is kept with {kept.get(tenant)}, and was given {wanted}")
        world.tenants.update(kept)
        world.limited_ms[tenant] = now_ms()
        world.ledger.passed.clear()  # with other weights scheduler positions are reset

    async def turn_deaf(self) -> None:
        """Have a worker lose its handoffs, hear again, or withdraw its free slots."""
        world, worker = self._world, self._world.rng.choice(WORKERS)
        if worker in world.deaf:
            world.deaf.discard(worker)
        elif world.chance(0.5):
            world.deaf.add(worker)
        else:
            await world.workers[worker].withdraw_free_slots(*world.rng.choice(STATIONS), worker)

    async def announce(self) -> None:
        """Register a worker and its model; a read finds both."""
        world, worker = self._world, self._world.rng.choice(WORKERS)
        name, version = world.rng.choice(STATIONS)
        report = WorkerReport(worker, 1, "host", models=[f"{name} {version}"])
        cards = [{"name": name, "version": version, "kinds": ["raw"]}]

        async def made() -> bool:
            await worker_registry.register_worker(world.connection, report, cards, ALIVE_S)
            return True

        answer, _, _ = await world.call(made)
        found = await worker_registry.read_cluster_state(world.connection)
        is_there = report in found.workers and (name, version) in {(one["name"], one["version"]) for one in found.cards}
        if answer is not None and not is_there:
            raise Violation(f"{report} was announced, and {found} is known")
