"""Jobs by the Python client: submit, wait, follow, cancel, list; and the errors of each."""

import itertools
import threading

import numpy as np
import pytest
from jitney_client import (
    ApiError,
    AsyncJitney,
    AsyncJob,
    ConnectionFailed,
    Event,
    Jitney,
    Job,
    JobCanceled,
    JobExpired,
    JobFailed,
    NotFound,
    WaitTimeout,
    to_arrays,
)

from tests.support.service import DIGITS, Service
from tests.support.waiting import wait_until

X = {"tensors": {"x": np.array([1, 2, 3, 4], np.float32)}}
Y = [2, 4, 6, 8]


def test_run_returns_the_output(jitney: Jitney) -> None:
    assert jitney.run("digits", {"image": DIGITS[0]}, parameters={"top_k": 1})["predictions"][0]["label"] == "0"
    assert jitney.run("double", {"tensors": {"x": [1.0, 2.0, 3.0, 4.0]}})["tensors"]["y"]["data"] == Y
    exact = jitney.run("double", X, parameters={"encoding": "base64"}, timeout_s=20)
    assert to_arrays(exact)["y"].tolist() == Y


def test_a_job_is_submitted_and_read_later(jitney: Jitney) -> None:
    job = jitney.submit("slow", X, metadata={"order": "17"}, deadline_s=60, lane="bulk")
    assert (job.status, job.model, job.is_final, job.output) == ("queued", "slow", False, None)
    again = jitney.job(job.id)
    assert again.result(timeout_s=20)["tensors"]["y"]["data"] == Y
    assert (again.metadata, again.error, again.data["lane"]) == ({"order": "17"}, None, "bulk")
    assert (again.timings["infer"] or 0) >= 50
    assert job.refresh().is_final
    assert again.id in [listed.id for listed in itertools.islice(jitney.list_jobs(), 300)]


def test_the_same_key_is_the_same_job(jitney: Jitney) -> None:
    first, second = (jitney.submit("double", X, idempotency_key="order-17") for _ in range(2))
    assert first.id == second.id


def test_a_job_is_followed_to_its_end(jitney: Jitney) -> None:
    job = jitney.submit("slow", X)
    events = list(job.events())
    assert [event.name for event in events] == ["queued", "running", "succeeded"][-len(events) :]
    assert events[-1].data["output"]["tensors"]["y"]["data"] == Y
    assert list(job.events())[-1].name == "succeeded"  # again, from the start


def test_the_events_of_all_jobs(jitney: Jitney) -> None:
    events = jitney.events()
    found: list[Event] = []

    def listen() -> None:
        found.extend(itertools.islice(events, 1))

    listener = threading.Thread(target=listen)
    listener.start()
    wait_until(lambda: jitney.submit("double", X) and not listener.is_alive(), "an event comes")
    listener.join()
    assert found[0].name in {"queued", "running", "succeeded"}
    events.close()  # type: ignore[attr-defined]


def test_jobs_without_an_output_raise_their_error(jitney: Jitney) -> None:
    with pytest.raises(JobFailed, match="the PNG data is damaged") as failed:
        jitney.run("digits", {"image": b"\x89PNG\r\n\x1a\n"})
    assert (failed.value.code, failed.value.status, failed.value.job.status) == ("invalid_image", 422, "failed")
    (*_, waiting) = jitney.submit_many("slow", [X] * 90)
    assert isinstance(waiting, Job)
    with pytest.raises(WaitTimeout, match=f"job {waiting.id} is queued, and goes on") as over:
        waiting.wait(timeout_s=0.1)
    assert over.value.id == waiting.id
    assert waiting.cancel().status == "canceled"
    with pytest.raises(JobCanceled):
        waiting.result()
    with pytest.raises(JobExpired) as expired:
        jitney.run("slow", X, deadline_s=0.001, timeout_s=20)
    assert expired.value.code == "deadline_exceeded"


def test_errors_of_requests_have_their_code_and_details(jitney: Jitney) -> None:
    with pytest.raises(NotFound, match="no model 'none'") as missing:
        jitney.run("none", X)
    assert (missing.value.code, missing.value.details["allowed"]) == ("model_not_found", ["digits", "double", "slow"])
    with pytest.raises(ApiError) as refused:
        jitney.submit("double", {"tensors": {"x": [1.0]}})
    assert (refused.value.status, refused.value.code, refused.value.is_temporary) == (422, "invalid_input", False)
    with pytest.raises(NotFound):
        jitney.job("0" * 34)
    with pytest.raises(NotFound) as batch:  # OpenAI's form
        jitney.batch("batch_0")
    assert batch.value.code == "batch_not_found"
    done = jitney.submit("double", X).wait()
    with pytest.raises(ApiError) as final:
        done.cancel()
    assert final.value.code == "job_already_final"


def test_a_service_that_is_away_is_an_error_after_the_time_for_repeats() -> None:
    with Jitney("http://127.0.0.1:9", retry_s=0.3) as jitney, pytest.raises(ConnectionFailed, match="POST /v1/jobs:"):
        jitney.submit("double", X)
    with pytest.raises(ValueError, match="must begin with http"):
        Jitney("127.0.0.1:8000")


def test_the_environment_names_the_service_and_the_key(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITNEY_URL", f"{served.url}/")
    monkeypatch.setenv("JITNEY_API_KEY", "jk_x")
    with Jitney() as jitney:
        assert {model["name"] for model in jitney.models()} == {"digits", "double", "slow"}
        assert jitney._api.transport._service.headers["authorization"] == "Bearer jk_x"  # type: ignore[attr-defined]


async def test_the_asynchronous_client_does_the_same(async_jitney: AsyncJitney) -> None:
    assert (await async_jitney.run("double", X))["tensors"]["y"]["data"] == Y
    job = await async_jitney.submit("slow", X)
    events = [event.name async for event in job.events()]
    assert events == ["queued", "running", "succeeded"][-len(events) :]
    assert (await (await async_jitney.job(job.id)).result())["tensors"]["y"]["data"] == Y
    assert (await job.refresh()).is_final
    (*_, waiting) = await async_jitney.submit_many("slow", [X] * 90)
    assert isinstance(waiting, AsyncJob)
    with pytest.raises(WaitTimeout):
        await waiting.wait(timeout_s=0.1)
    assert (await waiting.cancel()).status == "canceled"
    with pytest.raises(JobCanceled):
        await waiting.result()
    async for listed in async_jitney.list_jobs():
        assert listed.id == waiting.id
        break
    with pytest.raises(NotFound):
        await async_jitney.run("none", X)
    assert len(await async_jitney.models()) == 3
    assert (await async_jitney.webhook_secret()).startswith("whsec_")
