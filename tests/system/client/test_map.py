"""`map` and `submit_many` of the Python client: order, errors, limits, slow and asynchronous inputs."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from jitney_client import ApiError, AsyncJitney, Jitney, Job, JobFailed, to_arrays
from jitney_client.inputs import Input
from jitney_client.many_inputs import MapRun
from jitney_client.transport import run

from tests.support import models
from tests.support.service import DIGITS, Service
from tests.support.waiting import pass_time
from tests.system.models.test_large_outputs import VALUES, lay_out


def numbers(count: int) -> Iterator[Input]:
    return ({"tensors": {"x": [float(n)] * 4}} for n in range(count))


def test_results_come_in_the_order_of_the_inputs(jitney: Jitney) -> None:
    results = list(jitney.map("double", numbers(1000), progress=True, concurrency=150))
    assert [result.index for result in results] == list(range(1000))
    assert [result.output["tensors"]["y"]["data"][0] for result in results] == [2.0 * n for n in range(1000)]
    assert {result.job.data["lane"] for result in results if result.job} == {"bulk"}
    assert list(jitney.map("double", [])) == []


def test_results_come_as_they_end(jitney: Jitney) -> None:
    results = list(jitney.map("digits", ({"image": path} for path in DIGITS), ordered=False, concurrency=3))
    labels = {result.index: result.output["predictions"][0]["label"] for result in results}
    assert labels == {index: path.name[0] for index, path in enumerate(DIGITS)}


def test_at_most_so_many_jobs_are_in_flight(jitney: Jitney, served: Service) -> None:
    taken = 0

    def inputs() -> Iterator[Input]:
        nonlocal taken
        for one in numbers(30):
            taken += 1
            yield one

    for result in jitney.map("slow", inputs(), concurrency=4):
        assert taken <= result.index + 1 + 4 * 5  # in flight, and held until an earlier one has come
        assert taken - result.index <= 21
    states = [job["status"] for job in served.http.get("/v1/jobs?limit=100").json()["jobs"] if job["model"] == "slow"]
    assert states.count("queued") == 0


def test_failures_are_raised_or_returned(jitney: Jitney) -> None:
    images = (DIGITS[0], b"\x89PNG\r\n\x1a\n", "?", Path("/none"))
    wrong: list[Input] = [*({"image": image} for image in images), {"text": "a"}]
    results = list(jitney.map("digits", wrong, return_errors=True))
    kinds = [type(result.error) for result in results]
    assert kinds == [type(None), JobFailed, ApiError, FileNotFoundError, ApiError]
    assert [result.job is None for result in results] == [False, False, True, True, True]
    with pytest.raises(JobFailed):
        list(jitney.map("digits", wrong))
    with pytest.raises(ApiError) as refused:  # of which none is accepted
        list(jitney.map("none", numbers(2)))
    assert refused.value.code == "model_not_found"
    with pytest.raises(ValueError, match="concurrency"):
        jitney.map("double", [], concurrency=0)


def test_submit_many_answers_each_input(jitney: Jitney) -> None:
    inputs = [*numbers(250), {"tensors": {"x": [1.0]}}, {"image": Path("/none")}, *numbers(1)]
    jobs = jitney.submit_many("double", inputs, metadata={"run": "1"})
    assert [type(job) for job in jobs] == [*[Job] * 250, ApiError, FileNotFoundError, Job]
    last = jobs[249]
    assert isinstance(last, Job)
    assert last.result()["tensors"]["y"]["data"] == [498.0] * 4
    assert last.metadata == {"run": "1"}
    assert jitney.submit_many("double", []) == []


async def test_asynchronous_inputs(async_jitney: AsyncJitney) -> None:
    async def inputs() -> AsyncIterator[Input]:
        for one in numbers(12):
            await pass_time(0.05)  # slower than a chunk waits for
            yield one

    found = [result.output["tensors"]["y"]["data"][0] async for result in async_jitney.map("double", inputs())]
    assert found == [2.0 * n for n in range(12)]
    many = await async_jitney.submit_many("double", inputs())
    assert len({job.id for job in many if not isinstance(job, Exception)}) == 12


def test_a_service_with_small_limits(tmp_path: Path) -> None:
    """A full queue, small requests and large outputs slow `map` down, and nothing else."""
    models.doubling(tmp_path)
    limits = {
        "JITNEY_MAX_JOBS": "20",
        "JITNEY_MAX_JOBS_PER_REQUEST": "16",
        "JITNEY_MAX_BODY_BYTES": "4000",
        "JITNEY_TENANT_JOBS": "12",
    }
    with Service(tmp_path, limits) as service, Jitney(service.url) as jitney:
        results = list(jitney.map("double", numbers(300), concurrency=200))
        assert [result.output["tensors"]["y"]["data"][0] for result in results] == [2.0 * n for n in range(300)]
        assert {type(job) for job in jitney.submit_many("double", numbers(12))} == {Job}
        too_large = [*numbers(1), {"tensors": {"x": [1.0] * 4000}}]
        refused = list(jitney.map("double", too_large, return_errors=True))[1].error
        assert isinstance(refused, ApiError)
        assert refused.status == 413


def test_outputs_too_large_for_one_answer_are_read_alone(tmp_path: Path) -> None:
    lay_out(tmp_path, "table")
    with Service(tmp_path) as service, Jitney(service.url) as jitney:
        jobs = jitney.submit_many("table", [{"tensors": {"x": [1.0]}}] * 64, parameters={"encoding": "base64"})
        ids = [job.wait(timeout_s=30).id for job in jobs if isinstance(job, Job)]
        assert any(entry.get("output_url") for entry in run(jitney._api.query(ids, 0, 1)))
        mapping = MapRun(jitney._api, [], lambda _: b"", 100)
        mapping._in_flight = {job_id: index for index, job_id in enumerate(ids)}
        results = run(mapping._collect())
    assert [result.index for result in results] == list(range(64))
    assert {len(to_arrays(result.output)["y"]) for result in results} == {VALUES}
