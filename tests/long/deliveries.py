"""Ten thousand deliveries through a total outage, and the delay of the first attempt.

All real: a queue's server, `jitney background`, receivers on loopback. Prints what it found; exits 1 if one was lost.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime

from jobs.contract import webhook_request
from jobs.contract.ids import new_job_id
from jobs.contract.job import Outcome, Submission
from jobs.contract.lifecycle import State
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore
from jobs.store.settings import AddressPolicySettings, StoreSettings
from tests.support.background_process import ALLOW, QUICK, BackgroundProcess
from tests.support.receiver import ReceivedRequest, Receiver, answer, hang
from tests.support.servers import Server
from tests.support.waiting import pass_time, wait_until_async

GUARD = AddressPolicySettings(webhook_allow_cidrs="127.0.0.1/32").address_policy()
ENDPOINTS = 10
# The usual eight attempts, within four minutes: the receivers are away for most of it.
SCHEDULE = "0,2,10,20,40,60,60,60"
AWAY_S = 150.0
BODY = b'{"predictions":[{"label":"7","index":7,"probability":0.999}]}'
LIMIT_S = 1200.0


class Load:
    """Jobs that end, each with a webhook."""

    def __init__(self, server: Server) -> None:
        self.connection = RedisClient(server.url, 5)
        self.store = JobStore(StoreSettings(redis_url=server.url), self.connection)

    async def end(self, urls: Sequence[str], tenant: str = "default") -> list[str]:
        """Take jobs from submit to success; gives their ids."""
        jobs = [
            Submission(new_job_id(0), "m", "1", "raw", b"in", tenant, webhook=webhook_request.read_webhook(url, GUARD))
            for url in urls
        ]
        await self.store.submit(jobs)
        claimed = (await self.store.claim("m", "1", "w1", len(jobs))).jobs
        await self.store.finish("w1", [Outcome(job.id, job.attempt, State.SUCCEEDED, BODY) for job in claimed])
        return [job.id for job in jobs]


async def outage(count: int) -> bool:
    """Stop the receivers, kill `jitney background` and the queue server; then wait for the last delivery."""
    with ExitStack() as held:
        server = Server()
        held.callback(server.close)
        env = {
            "JITNEY_WEBHOOK_SCHEDULE": SCHEDULE,
            "JITNEY_WEBHOOK_LOG": str(count + 1),
            "JITNEY_WEBHOOK_TIMEOUT_S": "5",
            "JITNEY_WEBHOOK_LEASE_S": "10",
        }
        background_process = held.enter_context(BackgroundProcess(server, env))
        receivers = [held.enter_context(Receiver(answer(503))) for _ in range(ENDPOINTS)]
        load, expected = Load(server), set[str]()
        began_s = time.monotonic()
        for first in range(0, count, 500):
            urls = [receivers[nth % ENDPOINTS].url for nth in range(first, min(first + 500, count))]
            expected |= {f"{job}-1" for job in await load.end(urls)}
        print(f"{len(expected)} jobs ended, {ENDPOINTS} receivers answer 503, after {time.monotonic() - began_s:.0f} s")
        for at_s, what in ((30, "background"), (60, "queue"), (90, "background"), (120, "background")):
            await pass_time(max(0.0, began_s + at_s - time.monotonic()))
            if what == "queue":
                server.kill()
                await pass_time(2)
                server.start()
            else:
                background_process.kill()
                background_process.start()
            tried = sum(len(receiver.got) for receiver in receivers)
            print(f"{time.monotonic() - began_s:5.0f} s: {what} killed and back; {tried} attempts so far")
        await pass_time(max(0.0, began_s + AWAY_S - time.monotonic()))
        tried, back_s = sum(len(receiver.got) for receiver in receivers), time.monotonic()
        for receiver in receivers:
            receiver.got.clear()
            receiver.behaves = answer(204)

        async def all_arrived() -> bool:
            await pass_time(0.5)
            return expected <= {got.id for receiver in receivers for got in receiver.got}

        await wait_until_async(all_arrived, "all have arrived", LIMIT_S)
        handled = Counter(got.id for receiver in receivers for got in receiver.got)
        took_s = time.monotonic() - back_s
        print(f"receivers back after {AWAY_S:g} s and {tried} attempts; the last arrived {took_s:.0f} s later")
        await wait_until_async(lambda: _ended(load.store, count), "all are noted as delivered", 60)
        lost, unknown = expected - handled.keys(), handled.keys() - expected
        twice = sum(times > 1 for times in handled.values())
        print(
            f"arrived {len(handled)} of {count}, lost {len(lost)}, unknown {len(unknown)}; answered 204 twice: {twice}"
        )
        await load.connection.aclose()
        return handled.keys() == expected


async def _ended(store: JobStore, count: int) -> bool:
    return (await store.counts()).get("webhooks:ended:delivered", 0) == count


async def latency(rate: int, seconds: float, *, dead: int) -> list[float]:
    """Measure ms from a job's end to its first attempt's arrival, while another tenant's receivers cease to answer."""
    with ExitStack() as held:
        server = Server()
        held.callback(server.close)
        held.enter_context(_delivering(server))
        well = held.enter_context(_Clock())
        hanging = [held.enter_context(Receiver()) for _ in range(dead)]
        load, ended = Load(server), 0
        for receiver, tenant in ((well, "a"), *((one, "b") for one in hanging)):  # all of them are well at first
            await load.end([receiver.url], tenant)
            await wait_until_async(lambda receiver=receiver: _has(receiver, 1), "the first has arrived")  # type: ignore[misc]
        for receiver in hanging:
            receiver.behaves = hang
        began_s = time.monotonic()
        while time.monotonic() - began_s < seconds:
            await load.end([well.url], "a")
            ended += 1
            if hanging:
                await load.end([hanging[ended % dead].url], "b")
            await pass_time(max(0.0, began_s + ended / rate - time.monotonic()))
        await wait_until_async(lambda: _has(well, ended + 1), "all have arrived", 60)
        await load.connection.aclose()
        return sorted(well.late_ms[1:])


async def _has(well: Receiver, count: int) -> bool:
    return len(well.got) >= count


@contextmanager
def _delivering(server: Server) -> Iterator[BackgroundProcess]:
    """Run it at the defaults."""
    with BackgroundProcess(server, {**dict.fromkeys(QUICK, ""), **ALLOW}) as process:
        yield process


class _Clock(Receiver):
    """Records the delay of each message."""

    def __init__(self) -> None:
        self.late_ms: list[float] = []

        async def behave(got: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
            ended = datetime.fromisoformat(got.message["data"]["finished_at"]).timestamp()
            self.late_ms.append((time.time() - ended) * 1000)
            await answer(204)(got, writer)

        super().__init__(behave)


def _at(sorted_ms: Sequence[float], share: float) -> float:
    return sorted_ms[min(len(sorted_ms) - 1, int(len(sorted_ms) * share))]


async def main(argv: Sequence[str] | None = None) -> int:
    """Run both parts; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="make long NAME=deliveries", description="What webhooks promise, at full length."
    )
    parser.add_argument("--count", type=int, default=10_000, help="deliveries of the outage; 0: leave it out")
    parser.add_argument("--seconds", type=float, default=60, help="length of each measurement of latency")
    parser.add_argument("--rate", type=int, default=50, help="finishes a second")
    given = parser.parse_args(argv)
    for dead in (0, 8, 0, 8):
        ms = await latency(given.rate, given.seconds, dead=dead)
        beside = f"beside {dead} of another tenant's receivers that hang" if dead else "alone"
        figures = ", ".join(f"{name} {_at(ms, share):.0f}" for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1)))
        print(f"{given.rate} finishes a second, {beside}: ms from end to first attempt: {figures} ({len(ms)} jobs)")
    return 0 if not given.count or await outage(given.count) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
