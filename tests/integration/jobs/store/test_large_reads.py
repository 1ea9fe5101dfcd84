"""Reads are bounded in bytes, and large values use a connection of their own.

The row: a page of `GET /v1/jobs` over 50 results of 10 MB held up everybody else's jobs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobs.bulk import checkpoints, files, records
from jobs.bulk.files import File
from jobs.bulk.records import BulkRequest
from jobs.bulk.settings import BulkSettings
from jobs.contract import webhook_request
from jobs.contract.address_policy import AddressPolicy
from jobs.contract.errors import Refused
from jobs.contract.job import Outcome, Submission
from jobs.contract.job_view import listed_view
from jobs.contract.lifecycle import State
from jobs.store import dead_letters, record_pages
from jobs.store import job_store as store_module
from jobs.store.dead_letters import DeadLetterFilter
from jobs.webhooks import delivery_log, outbox
from jobs.webhooks.delivery_log import DeliveryFilter as WantedDeliveries
from tests.integration.jobs.conftest import StoreBench
from tests.integration.jobs.test_outbox import LIMITS

LARGE = b'{"y":"%s"}' % (b"x" * (1 << 20))
SMALL = b'{"y":"%s"}' % (b"x" * 16_000)
HOOK = webhook_request.read_webhook("https://receiver.example/hook", AddressPolicy([], ["https"], [443]))


@contextmanager
def at_most(bench: StoreBench, size_bytes: int) -> Iterator[None]:
    """Fail if the server sends more bytes than that meanwhile."""
    with bench.server.client() as client:
        before = client.info("stats")["total_net_output_bytes"]
        yield
        given = client.info("stats")["total_net_output_bytes"] - before
    assert given <= size_bytes


async def run(bench: StoreBench, body: bytes, count: int = 1, **fields: str) -> list[str]:
    """Have jobs succeed with an output."""
    ids = await bench.submit(count, **fields)
    await bench.store.finish("w1", bench.succeed(await bench.claim(count), body))
    return ids


async def connection_of(bench: StoreBench, *, large: bool) -> int:
    (number,) = await bench.store.connection.pipeline([("CLIENT", "ID")], large=large)
    return int(number)


def last_commands(bench: StoreBench) -> dict[int, str]:
    """List the last command of each connection."""
    with bench.server.client() as client:
        return {int(one["id"]): one["cmd"].split("|")[0] for one in client.client_list()}


async def test_a_page_of_jobs_reads_no_outputs(bench: StoreBench) -> None:
    ids = await run(bench, LARGE, 3) + await run(bench, SMALL, 20)
    with at_most(bench, 40_000):
        jobs, _ = await bench.store.newest("default", 1 << 60, 100)
    assert [job.id for job in jobs] == ids[::-1]
    assert {job.output for job in jobs} == {None}
    shown = listed_view(jobs[0])
    assert "output" not in shown
    assert (shown["status"], shown["batch_size"], shown["error"]) == ("succeeded", 20, None)


async def test_a_large_output_is_read_by_itself_over_another_connection(bench: StoreBench) -> None:
    (job_id,) = await run(bench, LARGE)
    small, large = await connection_of(bench, large=False), await connection_of(bench, large=True)
    assert small != large
    await bench.store.read([job_id])  # its script is known from then on
    with at_most(bench, 10_000):
        waited = await bench.store.wait(job_id, "gateway")
        (job,) = await bench.store.read([job_id])
        assert job == waited
    assert job is not None
    assert (job.state, job.output, job.output_bytes) == (State.SUCCEEDED, None, len(LARGE))
    assert (await bench.store.with_output(job)).output == LARGE
    assert (last_commands(bench)[small], last_commands(bench)[large]) == ("hmget", "hmget")


async def test_a_small_output_comes_with_its_job(bench: StoreBench) -> None:
    (job_id,) = await run(bench, SMALL)
    (job,) = await bench.store.read([job_id])
    assert job is not None
    assert (job.output, job.output_bytes) == (SMALL, None)
    assert await bench.store.with_output(job) is job


async def test_an_expired_output_is_unknown(bench: StoreBench) -> None:
    (job_id,) = await run(bench, LARGE)
    (job,) = await bench.store.read([job_id])
    assert job is not None
    with bench.server.client() as client:
        client.delete(f"jitney:{{s00}}:job:{job_id}")
    with pytest.raises(Refused, match="results are kept"):
        await bench.store.with_output(job)


async def test_many_jobs_are_read_without_their_large_outputs(bench: StoreBench) -> None:
    """A gateway does this for all awaited jobs after each break of its connection."""
    ids = await run(bench, LARGE, 10)
    with at_most(bench, 20_000):
        assert {job.output_bytes if job else None for job in await bench.store.read(ids)} == {len(LARGE)}


async def test_large_outputs_are_written_in_parts(bench: StoreBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_FINISH_BYTES", 3 << 20)
    await bench.submit(8)
    claimed = await bench.claim()
    with bench.server.client() as client:
        client.config_resetstat()
        assert await bench.store.finish("w1", bench.succeed(claimed, LARGE)) == 0
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 4


async def test_a_webhook_of_a_large_output_never_reads_it(bench: StoreBench) -> None:
    (job_id,) = await run(bench, LARGE, webhook=HOOK)
    ((lease,), _) = await outbox.dispatch_due(
        bench.store, bench.store.roots[0], 1, lane="fast", slots=24, limits=LIMITS
    )
    with at_most(bench, 10_000):
        attempt = await outbox.begin_attempt(bench.store, lease, LIMITS)
    assert attempt is not None
    assert attempt.job is not None
    assert (attempt.job.id, attempt.job.output, attempt.output_bytes) == (job_id, None, len(LARGE))


async def test_a_list_of_deliveries_reads_no_payloads(bench: StoreBench) -> None:
    await run(bench, SMALL[:15_000] + b'"}', 20, webhook=HOOK)
    with at_most(bench, 40_000):
        page = await delivery_log.list_deliveries(bench.store, "default", WantedDeliveries(), None, 100)
    assert len(page.records) == 20


async def test_a_page_of_dead_letters_is_bounded(bench: StoreBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_pages, "PAGE_BYTES", 100_000)
    await bench.submit(10, parameters=b'{"a":"%s"}' % (b"x" * 30_000), input=b"y" * 300_000)
    body = b'{"code":"inference_failed","message":"m","status":422}'
    claimed = await bench.claim()
    await bench.store.finish("w1", [Outcome(job.id, job.attempt, State.FAILED, body, dead=True) for job in claimed])
    small, large = await connection_of(bench, large=False), await connection_of(bench, large=True)
    found, after = 0, None
    while True:
        page = await dead_letters.list_dead_letters(bench.store, "default", DeadLetterFilter(), after, 100)
        assert len(page.records) <= 4
        found, after = found + len(page.records), page.after
        if after is None:
            break
    assert found == 10
    letter = await dead_letters.get_dead_letter(bench.store, "default", claimed[0].id)
    assert await dead_letters.read_input(bench.store, letter) == b"y" * 300_000
    assert (last_commands(bench)[small], last_commands(bench)[large]) == ("zrevrangebyscore", "get")


# ---- bulks


SETTINGS = BulkSettings()


async def open_bulk(bench: StoreBench, metadata: bytes = b"{}") -> records.Bulk:
    file = File(files.new_file_id(0), "default", "lines", "batch", 7, 0, 1 << 50)
    await files.add_file(bench.store, SETTINGS, file)
    asked = BulkRequest(file.id, "/v1/jobs", "24h", 60_000, metadata, "", "", file.id, False, 0)
    return await records.create_bulk(bench.store, SETTINGS, "default", asked, 1_000)


async def test_a_page_of_batches_or_files_reads_no_more_than_it_shows(bench: StoreBench) -> None:
    metadata = b'{"a":"%s"}' % (b"x" * 9000)
    made = [await open_bulk(bench, metadata) for _ in range(12)]
    made.sort(key=lambda one: (one.created_ms, one.id))
    with at_most(bench, 45_000):
        page, more = await records.list_bulks(bench.store, "default", "", 2)
    assert ([bulk.id for bulk in page], more) == ([bulk.id for bulk in made[:-3:-1]], True)
    rest, more = await records.list_bulks(bench.store, "default", f"batch_{page[-1].id}", 100)
    assert ([bulk.id for bulk in rest], more) == ([bulk.id for bulk in made[-3::-1]], False)
    every, more = await files.list_files(bench.store, "default", "", 100, oldest_first=True)
    assert (len(every), more) == (12, False)
    assert await files.list_files(bench.store, "default", every[0].id, 3, oldest_first=True) == (every[1:4], True)
    assert await files.list_files(bench.store, "default", "", 3, purpose="other") == ([], False)
    with pytest.raises(Refused, match="after must be the id of an entry of the list"):
        await files.list_files(bench.store, "default", "file-1", 3)


async def test_outcomes_of_a_bulk_job_are_read_up_to_a_number_of_bytes(bench: StoreBench) -> None:
    """However small its inputs were."""
    bulk = await open_bulk(bench)
    jobs = [
        Submission(checkpoints.job_id(bulk.id, nth), "m", "1", "raw", b"in", lane="bulk", bulk=f"line-{nth}")
        for nth in range(1, 5)
    ]
    await bench.store.submit(jobs)
    await bench.store.finish("w1", bench.succeed(await bench.claim(), LARGE))
    small = await connection_of(bench, large=False)
    assert len(await checkpoints.read_outcomes(bench.store, bulk, 100, 2_500_000)) == 2
    assert len(await checkpoints.read_outcomes(bench.store, bulk, 100, 1)) == 1
    assert len(await checkpoints.read_outcomes(bench.store, bulk, 3, 1 << 30)) == 3
    assert last_commands(bench)[small] == "client"
