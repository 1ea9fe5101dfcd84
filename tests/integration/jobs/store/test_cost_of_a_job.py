"""The exact number of commands that a job costs the queue server.

Time is not looked at; `make long NAME=bench-guard` does that.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jobs.contract.ids import new_job_id
from jobs.contract.job import Submission
from tests.integration.jobs.conftest import StoreBench

INPUT = b"x" * 3136
MANY = 32
# By step: the commands of one call for any number of jobs, and those of each job beside.
COMMANDS = {
    "submit": (
        {"evalsha": 1, "time": 1, "exists": 1, "hmget": 1, "hset": 1, "zcard": 1}
        | {"zadd": 3, "expire": 1, "rpush": 1, "zrange": 1},
        {"hset": 1},
    ),
    "claim": (
        {"evalsha": 1, "time": 1, "hget": 1, "lpop": 1, "zpopmin": 1, "exists": 2, "zadd": 1, "hset": 1} | {"zrem": 1},
        {"hmget": 1, "hset": 1},
    ),
    "finish": (
        {"evalsha": 1, "time": 1, "zrem": 1, "hincrby": 2, "hdel": 1, "publish": 1},
        {"hmget": 1, "hset": 1, "pexpire": 1},
    ),
}
# Where a worker has free slots, submit hands the jobs off to it: then there is no claim.
HANDED = (
    {"evalsha": 1, "time": 1, "exists": 1, "hmget": 1, "hset": 1, "zcard": 1, "zadd": 2, "expire": 1}
    | {"zrange": 1, "pubsub|numsub": 1, "zincrby": 1, "publish": 1},
    {"hset": 1},
)
OF_MANY = {"zremrangebyrank": 1}  # one job in 64, told by its id, has submit cut the tenant's list
# Bytes of a job beyond its input, both ways, in calls of 32.
MOST_BYTES = {"submit": 200, "claim": 240, "finish": 260}


def some_jobs(bench: StoreBench, count: int) -> list[Submission]:
    """Create jobs; the id of the last of many causes the tenant's list to be trimmed."""
    ids = [f"{new_job_id(0)[:-2]}{'40' if nth == MANY - 1 else '01'}" for nth in range(count)]
    return [bench.job(id=job_id, input=INPUT) for job_id in ids]


@asynccontextmanager
async def counted(bench: StoreBench, into: dict[str, Any]) -> AsyncIterator[None]:
    """Count the commands of the server meanwhile."""
    with bench.server.client() as client:
        client.config_resetstat()
        before = client.info("stats")
        yield
        after = client.info("stats")
        into["bytes"] = sum(after[name] - before[name] for name in ("total_net_input_bytes", "total_net_output_bytes"))
        calls = {name.removeprefix("cmdstat_"): one["calls"] for name, one in client.info("commandstats").items()}
    into["commands"] = Counter({name: n for name, n in calls.items() if name not in {"info", "config|resetstat"}})


async def journey(bench: StoreBench, count: int) -> dict[str, dict[str, Any]]:
    """Submit, claim and finish a number of jobs, with one call for each step."""
    steps: dict[str, dict[str, Any]] = {step: {} for step in COMMANDS}
    jobs = some_jobs(bench, count)
    async with counted(bench, steps["submit"]):
        await bench.store.submit(jobs, "gateway")
    async with counted(bench, steps["claim"]):
        claimed = await bench.claim(count)
    async with counted(bench, steps["finish"]):
        assert await bench.store.finish("w1", bench.succeed(claimed)) == 0
    return steps


def commands(count: int, of_call: dict[str, int], of_job: dict[str, int], step: str) -> Counter[str]:
    """The expected commands of a call for a number of jobs."""
    now_and_then = OF_MANY if step == "submit" and count == MANY else {}
    now_and_then = (
        {"llen": 1 + (count == MANY)} if step == "claim" else now_and_then
    )  # bulk's share, where there is one
    return Counter(of_call) + Counter({name: count * times for name, times in of_job.items()}) + Counter(now_and_then)


@pytest.mark.parametrize("count", [1, MANY])
async def test_a_job_costs_exactly_these_commands(bench: StoreBench, count: int) -> None:
    await journey(bench, 1)  # the scripts are known from then on
    steps = await journey(bench, count)
    for step, (of_call, of_job) in COMMANDS.items():
        assert steps[step]["commands"] == commands(count, of_call, of_job, step), step


@pytest.mark.parametrize("count", [1, MANY])
async def test_a_handed_off_job_costs_no_claim(bench: StoreBench, count: int) -> None:
    await journey(bench, 1)
    step: dict[str, Any] = {}
    with bench.subscribe_worker("w1"):
        await bench.claim(MANY + 1)
        jobs = some_jobs(bench, count)
        async with counted(bench, step):
            await bench.store.submit(jobs, "gateway")
    assert step["commands"] == commands(count, *HANDED, "submit")


async def test_the_bytes_of_a_job_are_few(bench: StoreBench) -> None:
    await journey(bench, MANY)
    steps = await journey(bench, MANY)
    for step, most in MOST_BYTES.items():
        of_input = len(INPUT) if step in {"submit", "claim"} else 0
        assert steps[step]["bytes"] / MANY - of_input <= most, step
