"""An episode: a few thousand random steps on an empty server; then all work is finished and compared."""

import itertools
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from jobs.contract.errors import Refused
from jobs.webhooks import outbox
from jobs.webhooks.outbox import Settlement
from tests.long.store_stress.model import checks
from tests.long.store_stress.model.ledger import Violation
from tests.long.store_stress.model.world import WORKERS, World, now_ms
from tests.long.store_stress.steps import (
    bulk_steps,
    bulk_turns,
    bulks,
    claiming,
    dead_letters,
    submitting,
    webhooks,
    working,
)
from tests.long.store_stress.steps.bulks import Bulks
from tests.long.store_stress.steps.others import OtherSteps
from tests.long.store_stress.steps.webhooks import LeasedDeliveries
from tests.support import invariants
from tests.support.servers import Server

CHECK_EVERY: Final = 150
DRIVE_S: Final = 60
MAX_ADVANCES: Final = 20  # scripts of one step of a bulk job
Step = Callable[[], Awaitable[None]]


class Episode:
    """One episode. `kill_every`: the server is killed and started again after so many steps; 0: never."""

    def __init__(self, server: Server, seed: str, *, check_every: int = CHECK_EVERY, kill_every: int = 0) -> None:
        self.seed, self.at, self.stepped_s = seed, 0, 0.0
        self._server, self._check_every, self._kill_every = server, check_every, kill_every
        rng = random.Random(seed)
        self.world = World(server, rng)
        self._bulks, self._mail = Bulks(), LeasedDeliveries()
        self._secrets: dict[str, list[str]] = {}
        self._steps: dict[str, tuple[Step, int]] = self._table()

    def _table(self) -> dict[str, tuple[Step, int]]:
        """Give each step with its weight."""
        world, mail, all_bulks = self.world, self._mail, self._bulks
        others = OtherSteps(world)
        return {
            "submit": (lambda: submitting.submit(world), 14),
            "claim": (lambda: claiming.claim(world), 18),
            "finish": (lambda: working.finish(world), 16),
            "extend": (lambda: working.extend(world), 4),
            "release": (lambda: working.release(world), 3),
            "sweep": (lambda: working.sweep(world), 5),
            "recover": (lambda: working.recover_worker(world), 2),
            "cancel": (lambda: submitting.cancel(world), 3),
            "wait": (lambda: submitting.wait(world), 3),
            "follow": (lambda: submitting.follow(world), 2),
            "list": (lambda: submitting.list_newest(world), 1),
            "listen": (others.listen, 1),
            "read log": (others.read_log, 1),
            "dispatch": (lambda: webhooks.dispatch(world, mail), 4),
            "begin": (lambda: webhooks.begin(world, mail), 5),
            "settle": (lambda: webhooks.settle(world, mail), 5),
            "attach": (lambda: webhooks.attach(world), 1),
            "resend": (lambda: webhooks.resend(world), 1),
            "deliveries": (lambda: webhooks.list_deliveries(world), 1),
            "secret": (lambda: webhooks.rotate_secret(world, self._secrets), 1),
            "letter": (lambda: dead_letters.read_letter(world), 1),
            "purge": (lambda: dead_letters.purge(world), 1),
            "replay": (lambda: dead_letters.replay(world), 1),
            "upload": (lambda: bulks.upload(world, all_bulks), 2),
            "open bulk": (lambda: bulks.open_bulk(world, all_bulks), 2),
            "bulk dispatch": (lambda: bulk_turns.dispatch(world, all_bulks), 3),
            "bulk step": (lambda: bulk_steps.advance(world, all_bulks), 14),
            "bulk cancel": (lambda: bulks.cancel(world, all_bulks), 1),
            "file drop": (lambda: bulks.drop(world, all_bulks), 1),
            "file sweep": (lambda: bulks.sweep_files(world, all_bulks), 1),
            "depth": (others.depth, 1),
            "stats": (others.count, 1),
            "plan": (others.plan, 1),
            "announce": (others.announce, 1),
            "limit": (others.limit, 1),
            "deaf": (others.turn_deaf, 1),
        }

    async def run(self, steps: int) -> None:
        """Make the steps, and end everything."""
        await self.world.open()
        begun = time.monotonic()
        try:
            names, weights = list(self._steps), [weight for _, weight in self._steps.values()]
            for self.at in range(1, steps + 1):
                name = self.world.rng.choices(names, weights)[0]
                self.world.ledger.trace.append(f"step {self.at}: {name}")
                self.world.ledger.steps[name] += 1
                await self._steps[name][0]()
                if self.at % self._check_every == 0:
                    await checks.check_all(self.world, self._bulks)
                if self._kill_every and self.at % self._kill_every == 0:
                    await self._kill()
            self.stepped_s = time.monotonic() - begun
            await self._drive()
        finally:
            await self.world.aclose()

    async def _kill(self) -> None:
        """Kill the server and start it again: it still knows all acknowledged writes."""
        self.world.ears.close()
        self._server.kill()
        self._server.start()
        await self.world.connection.aclose()
        await self.world.open()
        for job in self.world.ledger.open.values():
            job.watchers.clear()
        self.world.ledger.steps["server killed"] += 1
        await checks.check_all(self.world, self._bulks)

    # ---- the end

    async def _drive(self) -> None:
        """Run, deliver and store everything open, and check that nothing is left."""
        world, until_ms = self.world, now_ms() + DRIVE_S * 1000
        world.is_flaky = False
        world.deaf.clear()
        world.ledger.trace.append("everything is driven to its end")
        while now_ms() < until_ms:
            await self._drive_jobs()
            await self._drive_bulks()
            await self._drive_deliveries()
            waits = any(one.state == "waiting" for one in world.ledger.deliveries.values())
            if not world.ledger.open and not waits and all(one.is_closed for one in self._bulks.known.values()):
                break
        else:
            raise Violation(f"not all came to an end in {DRIVE_S} s: {self._left()}")
        await checks.check_all(world, self._bulks)
        self._check_told()
        await checks.check_sums(world)
        await bulks.sweep_all(world, self._bulks)
        await checks.check_left(world)
        with self._server.client() as client:
            invariants.check_outbox(client)

    async def _drive_jobs(self) -> None:
        world, worker = self.world, WORKERS[0]
        await working.sweep(world)  # also without open jobs: outputs that have expired make room for lines of bulk jobs
        if not world.ledger.open:
            return
        for station in {job.station for job in world.ledger.open.values()}:
            for trial in (False, True):
                await claiming.claim_and_check(world, claiming.ClaimRequest(station, worker, 50, trial))
        held = [one for whose, one in world.ledger.claims if whose == worker and working.is_mine(world, worker, one)]
        if held:
            await working.finish_all(world, worker, [working.draw_outcome(world, one) for one in held])

    async def _drive_bulks(self) -> None:
        world, courses = self.world, self._bulks.courses
        await bulk_turns.end_cooldowns(world, self._bulks)
        for root in world.store.roots if any(not one.is_closed for one in self._bulks.known.values()) else ():
            await bulk_turns.dispatch_of(world, self._bulks, root)
        for course in list(courses):
            for _ in range(
                MAX_ADVANCES
            ):  # to its end if possible: on a slow machine its lease ends before the next turn
                await bulk_steps.advance_one(world, self._bulks, course)

    async def _drive_deliveries(self) -> None:
        world, mail = self.world, self._mail
        for root, lane in itertools.product(world.store.roots, outbox.LANES):
            await webhooks.dispatch_of(world, mail, root, lane)
        for lease in mail.leases:
            await webhooks.begin_one(world, mail, lease)
            if lease in mail.begun:
                await webhooks.settle_as(world, lease, Settlement("delivered", {"at_ms": 1, "status": 200}))
        mail.leases.clear()

    def _left(self) -> str:
        ledger = self.world.ledger
        waiting = [one for one in ledger.deliveries.values() if one.state == "waiting"]
        open_bulks = [one for one in self._bulks.known.values() if not one.is_closed]
        return f"{list(ledger.open.values())[:3]} {waiting[:3]} {open_bulks[:3]}"

    def _check_told(self) -> None:
        """Every delivered message was read for sending at least once."""
        for one in self.world.ledger.deliveries.values():
            if one.tries <= 0:
                raise Violation(f"{one} has ended, and was never tried")


async def run(server: Server, seed: str, steps: int, *, check_every: int = CHECK_EVERY, kill_every: int = 0) -> Episode:
    """Run an episode on an emptied server. A violation names the step and those before it."""
    with server.client() as client:
        client.flushall()
    episode = Episode(server, seed, check_every=check_every, kill_every=kill_every)
    try:
        await episode.run(steps)
    except (Violation, AssertionError, KeyError, Refused) as error:
        trace = "\n".join(list(episode.world.ledger.trace)[-25:])
        message = f"seed {seed!r}, step {episode.at} of {steps}: {error}\nsettings: {episode.world.settings}\n{trace}"
        raise Violation(message) from error
    return episode
