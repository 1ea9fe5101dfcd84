"""Every bulk job ends in spite of broken files, steps or lines, and delays no other."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import orjson
import pytest
from openai.types import Batch

from background.bulk import result_lines
from jobs.bulk.checkpoints import job_id
from tests.integration.bulk.conftest import BulkStack
from tests.support import bulks
from tests.support.bulks import line
from tests.support.documented import unchecked
from tests.support.gateways import PNG
from tests.support.waiting import wait_until

TRIES = 3


@pytest.fixture
def settings() -> Mapping[str, str]:
    return {
        "JITNEY_BULK_RETRY_S": "0.05",
        "JITNEY_BULK_STEP_TRIES": str(TRIES),
        "JITNEY_BULK_END_S": "0.3",
        "JITNEY_TENANT_BYTES": "20000",
        "JITNEY_MODEL_REFRESH_S": "0.2",
    }


def names(count: int) -> list[str]:
    return [f"line-{nth}" for nth in range(count)]


def reason(batch: Batch) -> dict[str, Any]:
    assert batch.errors is not None
    (one,) = batch.errors.data or []
    return one.model_dump()


async def begun(plant: BulkStack, count: int = 100, **more: Any) -> Batch:
    """Return a batch with ten finished and stored lines."""
    batch = bulks.start_batch(plant.ai, [line(name) for name in names(count)], **more)
    await plant.run_exactly(10)
    return bulks.wait_for_batch(
        plant.ai, batch, lambda seen: len(bulks.results(plant.ai, seen.output_file_id)) == 10, "ten"
    )


async def completes(plant: BulkStack) -> bool:
    """Whether another batch runs to its end."""
    done = await plant.run_all(bulks.start_batch(plant.ai, [line(name) for name in names(5)]))
    return done.status == "completed"


async def test_a_batch_whose_lines_are_lost_fails(plant: BulkStack) -> None:
    """Without its predecessor's error file it used to validate for ever, with a traceback every 2 s."""
    first = await plant.run_all(bulks.start_batch(plant.ai, [line("good"), "broken"]))
    plant.ai.files.delete(first.error_file_id or "")
    again = bulks.create_batch(plant.ai, first.input_file_id, extra_body={"retry_of": first.id})
    done = bulks.wait_for_end(plant.ai, again)
    found = reason(done)
    assert (done.status, found["code"], found["param"]) == ("failed", "file_not_found", "retry_of")
    assert first.id in found["message"]
    assert plant.ai.files.delete(first.input_file_id).deleted  # nothing holds it any more
    assert "Traceback" not in plant.background_process.log()


async def test_a_batch_whose_steps_fail_again_and_again_fails_with_the_reason(plant: BulkStack) -> None:
    batch = await begun(plant)
    plan_of(plant, batch).write_bytes(b"no JSON")
    done = await plant.run_all(batch)
    found = reason(done)
    assert (done.status, found["code"]) == ("failed", "internal_error")
    assert "JSONDecodeError" in found["message"]
    good = bulks.results(plant.ai, done.output_file_id)
    assert done.request_counts is not None
    assert done.request_counts.completed == len(good) >= 10
    assert (
        TRIES <= plant.background_process.log().count("Traceback") <= 3 * TRIES
    )  # those before it stored outcomes do not count
    assert await completes(plant)


async def test_a_batch_whose_steps_kill_their_process_fails_too(plant: BulkStack) -> None:
    batch = await begun(plant)
    plant.background_process.kill()
    bulk = batch.id.removeprefix("batch_")
    with plant.server.client() as client:  # as if it had died of this batch each time
        client.zrem("jitney:{s00}:bulk_running", bulk)
        client.hset(f"jitney:{{s00}}:bulk:{bulk}", "losses", 4 * TRIES)
        client.zadd("jitney:{s00}:bulk_due:default", {bulk: 1})
        client.zadd("jitney:{s00}:bulk_due", {"default": 1})
    plant.background_process.start()
    done = bulks.wait_for_end(plant.ai, batch)
    assert (done.status, reason(done)["code"]) == ("failed", "internal_error")
    assert len(bulks.results(plant.ai, done.output_file_id)) == 10


async def test_a_batch_whose_files_are_gone_fails_at_once(plant: BulkStack) -> None:
    for what in ("content", "plan", "shorter"):
        batch = await begun(plant)
        content = plant.folder / "files" / batch.input_file_id
        if what == "shorter":
            content.write_bytes(content.read_bytes()[:100])
        else:
            (plan_of(plant, batch) if what == "plan" else content).unlink()
        done = await plant.run_all(batch)
        assert (done.status, reason(done)["code"]) == ("failed", "file_not_found"), what
        assert len(bulks.results(plant.ai, done.output_file_id)) >= 10
        while await plant.run(32):  # jobs of lines whose batch has failed meanwhile
            pass
    assert "Traceback" not in plant.background_process.log()


async def test_a_batch_without_storage_can_be_cancelled_and_expires(plant: BulkStack) -> None:
    for how in ("cancelled", "expired"):
        batch = await begun(plant, window="2s" if how == "expired" else "1h")
        for kind in ("out", "err"):  # a file in the place of a folder: nothing can be written there
            folder = plant.folder / "bulks" / batch.id.removeprefix("batch_") / kind
            if folder.exists():
                folder.rename(folder.with_name(f"{kind}-moved"))
            folder.write_bytes(b"")
        if how == "cancelled":
            plant.ai.batches.cancel(batch.id)
        done = bulks.wait_for_end(plant.ai, batch)
        assert (done.status, reason(done)["code"]) == (how, "storage_unavailable")
        answer = plant.gateway.http.post("/v1/batches", json={"retry_of": done.id})
        assert (answer.status_code, "have all ended" in answer.text) == (422, True)  # it would leave out the others
        while await plant.run(32):
            pass
    assert await completes(plant)


def plan_of(plant: BulkStack, batch: Batch) -> Path:
    return plant.folder / "bulks" / batch.id.removeprefix("batch_") / "plan" / "plan.jsonl"


async def test_one_line_of_a_model_that_cannot_be_read_fails_alone(plant: BulkStack) -> None:
    """The failure of a line affects that line alone; the same holds for many jobs in a request."""
    with unchecked(plant.gateway.http):
        await plant.worker.announce(plant.gateway, name="odd", inputs=[{"name": "x"}])
    odd = {"model": "odd", "input": {"tensors": {"x": {"datatype": "FP32", "shape": [1], "data": [1]}}}}
    text = json.dumps({"custom_id": "odd", "method": "POST", "url": "/v1/jobs", "body": odd})
    done = await plant.run_all(bulks.start_batch(plant.ai, [line("a"), text, line("b")]))
    good, bad = bulks.check_batch(plant.ai, done, ["a", "odd", "b"])
    assert (len(good), [one["error"]["code"] for one in bad]) == (2, ["internal_error"])
    job = {"model": "m", "input": {"tensors": {"x": {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}}}}
    answer = plant.gateway.http.post("/v1/jobs", json=[job, odd, job])
    assert (answer.status_code, [one.get("status") for one in answer.json()["jobs"]]) == (
        202,
        ["queued", None, "queued"],
    )
    assert answer.json()["jobs"][1]["error"]["code"] == "internal_error"
    await plant.run_exactly(2)


async def test_a_permanent_refusal_is_final_for_its_line_alone(plant: BulkStack) -> None:
    """A line above its tenant's bytes used to stall those behind it; a deadline beyond the window failed its line."""
    lines = [line("big", PNG + bytes(30_000)), line("late", deadline_ms=86_400_000), line("good")]
    batch = bulks.start_batch(plant.ai, lines, window="10m")
    jobs = wait_until(lambda: plant.open_jobs() == 2, "both are jobs")
    assert jobs
    with plant.server.client() as client:
        (created,) = client.hmget(f"jitney:{{s00}}:bulk:{batch.id.removeprefix('batch_')}", "expires")
        deadlines = [int(ms) for _, ms in client.zrange("jitney:{s00}:timers", 0, -1, withscores=True)]
    assert all(ms <= int(created) + 1000 for ms in deadlines)
    done = await plant.run_all(batch)
    good, bad = bulks.check_batch(plant.ai, done, ["big", "late", "good"])
    assert {one["custom_id"] for one in good} == {"late", "good"}
    assert [one["error"]["code"] for one in bad] == ["body_too_large"]
    answer = plant.gateway.submit(PNG + bytes(30_000))
    assert (answer.status_code, answer.json()["code"], answer.json()["limit_bytes"]) == (413, "body_too_large", 20_000)
    assert "retry-after" not in answer.headers


def test_an_unreadable_outcome_is_a_failed_line() -> None:
    """One such line used to keep all others of its batch from being stored."""
    line_id = job_id("00" + "a" * 24, 7)
    broken: list[list[Any]] = [["succeeded", "no JSON"], ["no state"], ["1"] * 7, [None] * 7, [{}] * 7, [[], "{}"]]
    for words in broken:
        shown = result_lines.render_line(msgpack.packb([line_id, "seven", *words]), "/v1/jobs")
        text = orjson.loads(shown.text)
        assert not shown.succeeded
        assert (text["custom_id"], text["error"]["line"]) == ("seven", 7)
