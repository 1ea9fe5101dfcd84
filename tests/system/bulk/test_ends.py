"""How bulk jobs end: completed, cancelled, expired or repeated; their reports and their lifetime."""

import json
from collections.abc import Mapping
from typing import Any

import openai
import pytest

from api.openapi.schemas.bulk import BatchNotification
from jobs.contract.job import ClaimedJob
from tests.integration.bulk.conftest import BulkStack
from tests.support import bulks
from tests.support.bulks import line
from tests.support.receiver import Receiver
from tests.support.waiting import wait_until


def names(count: int) -> list[str]:
    return [f"line-{nth}" for nth in range(count)]


async def test_results_are_visible_while_a_batch_runs(plant: BulkStack) -> None:
    batch = bulks.start_batch(plant.ai, [line(name) for name in names(100)])
    await plant.run_exactly(12)
    seen = bulks.wait_for_batch(
        plant.ai, batch, lambda one: bool(bulks.results(plant.ai, one.output_file_id)), "some are seen"
    )
    assert (seen.status, seen.request_counts and seen.request_counts.completed) == ("in_progress", 12)
    early = bulks.results(plant.ai, seen.output_file_id)
    done = await plant.run_all(batch)
    good, _ = bulks.check_batch(plant.ai, done, names(100))
    assert good[: len(early)] == early
    assert done.output_file_id == seen.output_file_id


async def test_a_cancelled_batch_keeps_its_finished_lines(plant: BulkStack) -> None:
    """Finished, queued, running and unread lines: each ends exactly once."""
    batch = bulks.start_batch(plant.ai, [line(name) for name in names(150)])
    await plant.run_exactly(25)
    running = await plant.worker.claim(5)
    assert plant.ai.batches.cancel(batch.id).status == "cancelling"
    done = bulks.wait_for_end(plant.ai, batch)
    await plant.worker.succeed(running)  # too late
    assert (done.status, done.cancelling_at is not None, done.cancelled_at is not None) == ("cancelled", True, True)
    good, bad = bulks.check_batch(plant.ai, done, names(150))
    assert (len(good), {one["error"]["code"] for one in bad}) == (25, {"batch_cancelled"})
    with plant.server.client() as client:
        assert [
            key
            for key in client.scan_iter("*")
            if any(part in key for part in (b":done_lines:", b":bulk_outcomes:", b"s00}:queue:"))
        ] == []


async def test_metrics_count_batches_and_their_lines(plant: BulkStack) -> None:
    def told() -> dict[str, float]:
        lines = plant.gateway.http.get("/metrics").text.splitlines()
        return {
            name: float(number)
            for name, _, number in (line.rpartition(" ") for line in lines if line.startswith("jitney_bulk"))
        }

    first, second = (bulks.start_batch(plant.ai, [line(name) for name in names(3)]) for _ in range(2))
    assert told()["jitney_bulks_open"] == 2
    await plant.run_all(first)
    await plant.run_all(second)
    bulks.start_batch(plant.ai, [line("a", model="x")])
    wait_until(lambda: told()["jitney_bulks_open"] == 0, "the wrong one is refused")
    assert told()['jitney_bulks_ended_total{status="completed"}'] == 2
    assert told()['jitney_bulks_ended_total{status="failed"}'] == 1
    assert told()['jitney_bulk_lines_total{outcome="succeeded"}'] == 6


async def test_a_batch_whose_window_is_over_expires(plant: BulkStack) -> None:
    batch = bulks.start_batch(plant.ai, [line(name) for name in names(120)], window="3s")
    await plant.run_exactly(7)
    done = bulks.wait_for_end(plant.ai, batch)
    assert (done.status, done.expired_at is not None) == ("expired", True)
    good, bad = bulks.check_batch(plant.ai, done, names(120))
    assert (len(good), {one["error"]["code"] for one in bad}) == (7, {"batch_expired"})


async def test_one_flag_runs_failed_lines_again(plant: BulkStack) -> None:
    lines = [line(name) for name in names(40)]
    lines[3] = "broken"
    batch = bulks.start_batch(plant.ai, lines)
    claimed: list[ClaimedJob] = []
    while len(claimed) < 39:
        claimed += await plant.worker.claim(39 - len(claimed))
    await plant.worker.fail(claimed[:9], "resource_exhausted")
    await plant.worker.succeed(claimed[9:])
    first = bulks.wait_for_end(plant.ai, batch)
    good, bad = bulks.check_batch(plant.ai, first, [name for name in names(40) if name != "line-3"], broken=1)
    assert {one["response"]["status_code"] for one in bad if one["response"]} == {422}
    again = bulks.create_batch(plant.ai, first.input_file_id, extra_body={"retry_of": first.id})
    second = await plant.run_all(again)
    failed = [one["custom_id"] for one in bad if one["custom_id"]]
    better, _ = bulks.check_batch(plant.ai, second, failed, broken=1)
    assert len(better) == 9
    assert {one["custom_id"] for one in (*good, *better)} == set(names(40)) - {"line-3"}
    assert plant.gateway.http.get(f"/v1/batches/{second.id}").json()["retry_of"] == first.id


async def test_only_failed_lines_can_be_run_again(plant: BulkStack) -> None:
    done = await plant.run_all(bulks.start_batch(plant.ai, [line("a")]))
    open_one = bulks.start_batch(plant.ai, [line("a")])
    for wrong, why in ((done.id, "no line of"), (open_one.id, "have all ended"), ("batch_x", "no batch")):
        answer = plant.gateway.http.post("/v1/batches", json={"retry_of": wrong})
        assert (answer.status_code in {404, 422}, why in answer.json()["error"]["message"]) == (True, True)
    await plant.run_all(open_one)


@pytest.mark.parametrize("how", ["field", "metadata", "headers"])
async def test_the_end_of_a_batch_sends_a_webhook(plant: BulkStack, how: str) -> None:
    with Receiver() as receiver:
        hook = f"{receiver.url}/done"
        asked: Any = {"url": hook, "headers": {"Authorization": "Bearer s3cr3t"}} if how == "headers" else hook
        more: dict[str, Any] = (
            {"metadata": {"webhook": hook}} if how == "metadata" else {"extra_body": {"webhook": asked}}
        )
        done = await plant.run_all(bulks.start_batch(plant.ai, [line("a"), "broken"], **more))
        got = receiver.wait_for(1)[0]
        assert got.message["type"] == "batch.completed"
        BatchNotification.model_validate_json(got.body, strict=True)
        assert got.headers.get("authorization") == ("Bearer s3cr3t" if how == "headers" else None)
        shown = plant.gateway.http.get(f"/v1/batches/{done.id}").json()
        assert got.message["data"] == shown
        assert shown["request_counts"] == {"total": 2, "completed": 1, "failed": 1}

        def listed() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = plant.gateway.http.get("/v1/webhooks").json()["deliveries"]
            return [one for one in found if one["state"] == "delivered"]

        (delivery,) = wait_until(listed, "it is noted")
        assert (delivery["type"], delivery["job"]) == ("batch.completed", done.id)
        told = plant.gateway.http.get(delivery["urls"]["job"])
        assert told.json()["id"] == done.id
        assert "s3cr3t" not in told.text + str(delivery)


async def test_a_file_in_use_stays(plant: BulkStack) -> None:
    batch = bulks.start_batch(plant.ai, [line("a")])
    with pytest.raises(openai.ConflictError, match="has not ended"):
        plant.ai.files.delete(batch.input_file_id)
    done = await plant.run_all(batch)
    for file_id in (done.input_file_id, done.output_file_id):
        assert plant.ai.files.delete(str(file_id)).deleted
    assert [path for path in plant.folder.rglob("*") if path.is_file()] == []


class TestExpiry:
    @pytest.fixture
    def settings(self) -> Mapping[str, str]:
        return {"JITNEY_BULK_TTL_S": "2", "JITNEY_BULK_SWEEP_S": "0.2"}

    async def test_expired_files_leave_nothing(self, plant: BulkStack) -> None:
        done = await plant.run_all(bulks.start_batch(plant.ai, [line("a"), "broken"]))
        assert plant.ai.files.retrieve(str(done.error_file_id)).expires_at
        wait_until(lambda: list(plant.ai.files.list()) == [], "all files are gone")
        wait_until(lambda: not [path for path in plant.folder.rglob("*") if path.is_file()], "and their content")
        assert plant.ai.batches.retrieve(done.id).status == "completed"


async def test_jobs_of_a_batch_are_bounded_and_hidden_from_job_lists(plant: BulkStack) -> None:
    """No more than JITNEY_BULK_IN_FLIGHT are in the queue; a tenant's own jobs do not wait behind all of them."""
    batch = bulks.start_batch(plant.ai, [line(name) for name in names(500)])
    wait_until(lambda: plant.jobs() == 40, "as many wait as may")
    assert plant.gateway.http.get("/v1/jobs").json()["jobs"] == []
    own = plant.gateway.submit().json()["id"]
    assert [job["id"] for job in plant.gateway.http.get("/v1/jobs").json()["jobs"]] == [own]
    while (seen := plant.ai.batches.retrieve(batch.id)).status not in bulks.ENDED:
        await plant.run(32)
        assert plant.open_jobs() <= 41
    bulks.check_batch(plant.ai, seen, names(500))


async def test_batches_share_the_in_flight_limit(plant: BulkStack) -> None:
    """No batch waits for the end of another."""
    batches = [bulks.start_batch(plant.ai, [line(name) for name in names(100)]) for _ in range(3)]
    for batch in batches:
        bulks.wait_for_batch(plant.ai, batch, lambda one: one.status == "in_progress", "it runs")
    left, most = list(batches), 0
    while left:
        most = max(most, plant.open_jobs())
        await plant.run(4)
        left = [one for one in left if plant.ai.batches.retrieve(one.id).status not in bulks.ENDED]
        if len(left) == 3:
            counts = [plant.ai.batches.retrieve(one.id).request_counts for one in batches]
            done = [one.completed for one in counts if one]
    assert most <= 80  # the first had all of it before the others came
    assert min(done) > 0
    for batch in batches:
        bulks.check_batch(plant.ai, plant.ai.batches.retrieve(batch.id), names(100))


def test_a_result_line_equals_its_job(service: Any) -> None:
    """Apart from fields that no longer apply."""
    from tests.support.service import DIGITS  # noqa: PLC0415

    with bulks.client(service.url) as ai:
        text = line("seven", DIGITS[-1].read_bytes(), "digits", metadata={"camera": "7"}, parameters={"top_k": 1})
        (good,), _ = bulks.check_batch(ai, bulks.wait_for_end(ai, bulks.start_batch(ai, [text])), ["seven"])
    body = good["response"]["body"]
    alone = service.submit(DIGITS[-1].read_bytes(), wait=10, model="digits", parameters=json.dumps({"top_k": 1})).json()
    assert set(alone) - set(body) == {"urls", "position", "eta_ms"}
    assert (body["metadata"], body["lane"], body["output"]) == ({"camera": "7"}, "bulk", alone["output"])
