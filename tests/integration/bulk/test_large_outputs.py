"""Outputs of a bulk job that lie in chunks come whole into its files, and the chunks go."""

import json
from collections.abc import Sequence

import pytest

from jobs.contract.job import ClaimedJob, Outcome
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.store.outputs import OutputWriter
from tests.integration.bulk.conftest import BulkStack
from tests.support import bulks
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio

CHUNK = 50_000


def output_of(number: int) -> dict[str, str]:
    return {"text": f"{number}" * (CHUNK * (number + 2))}


async def finish(plant: BulkStack, jobs: Sequence[ClaimedJob]) -> list[Outcome]:
    """Write outputs of several chunks, as a worker does before it writes the outcomes."""
    outcomes = []
    for number, job in enumerate(jobs):
        body = json.dumps(output_of(number)).encode()
        chunks = [body[first : first + CHUNK] for first in range(0, len(body), CHUNK)]
        outcome = Outcome(job.id, job.attempt, State.SUCCEEDED, b"", 1.0, 2.0, 3.0, 1, chunks=chunks)
        written = await OutputWriter(plant.worker.connection, 20).write(outcome, lambda: True)
        assert written is not None
        outcomes.append(written)
    return outcomes


async def claim(plant: BulkStack, count: int) -> list[ClaimedJob]:
    claimed: list[ClaimedJob] = []

    async def are_there() -> bool:
        claimed.extend(await plant.worker.claim(count - len(claimed)))
        return len(claimed) == count

    await wait_until_async(are_there, f"{count} jobs wait")
    return claimed


def chunk_keys(plant: BulkStack) -> list[bytes]:
    with plant.server.client() as client:
        return [*client.scan_iter("jitney:*:output:*", count=1000)]


async def test_the_files_have_whole_outputs(plant: BulkStack) -> None:
    batch = bulks.start_batch(plant.ai, [bulks.line(name) for name in "abcd"])
    claimed = await claim(plant, 4)
    outcomes = await finish(plant, claimed)
    with plant.server.client() as client:
        client.delete(keys.output(claimed[3].id, 1, 1))  # found missing by finish: the line runs again
    assert await plant.worker.store.finish("w1", outcomes) == 0
    (again,) = await claim(plant, 1)
    assert again.id == claimed[3].id
    await plant.worker.succeed([again])
    done = await plant.run_all(batch)
    good, bad = bulks.check_batch(plant.ai, done, [*"abcd"])
    assert bad == []
    sizes = sorted(len(json.dumps(one["response"]["body"]["output"])) for one in good)
    assert sizes[1:] == sorted(len(json.dumps(output_of(number))) for number in range(3))
    assert all(one["response"]["body"]["status"] == "succeeded" for one in good)
    assert chunk_keys(plant) == []


async def test_a_line_whose_chunks_were_lost_later_fails(plant: BulkStack) -> None:
    batch = bulks.start_batch(plant.ai, [bulks.line(name) for name in "ab"])
    claimed = await claim(plant, 2)
    plant.background_process.stop()
    assert await plant.worker.store.finish("w1", await finish(plant, claimed)) == 0
    with plant.server.client() as client:
        client.delete(keys.output(claimed[0].id, 1, 0))
    plant.background_process.start()
    done = await plant.run_all(batch)
    good, (bad,) = bulks.results(plant.ai, done.output_file_id), bulks.results(plant.ai, done.error_file_id)
    assert [one["response"]["body"]["output"] for one in good] == [output_of(1)]
    assert bad["error"]["code"] == "output_not_stored"


async def test_chunks_of_a_batch_that_is_over_are_deleted(plant: BulkStack) -> None:
    batch = bulks.start_batch(plant.ai, [bulks.line("a")])
    outcomes = await finish(plant, await claim(plant, 1))
    plant.ai.batches.cancel(batch.id)
    await plant.run_all(batch)
    assert await plant.worker.store.finish("w1", outcomes) == 1
    assert chunk_keys(plant) == []
