"""Batches by the Python client: create, wait, results, retry, cancel."""

import pytest
from jitney_client import AsyncJitney, BatchFailed, BatchResult, Jitney, WaitTimeout

from tests.support.service import DIGITS


def label(line: BatchResult) -> str:
    return str(line.output["predictions"][0]["label"])


def test_a_batch_of_named_inputs(jitney: Jitney) -> None:
    inputs = {path.name: {"image": path} for path in DIGITS} | {"broken": {"image": b"\x89PNG\r\n\x1a\n"}}
    batch = jitney.create_batch("digits", inputs, parameters={"top_k": 1}, batch_metadata={"run": "1"})
    assert jitney.batch(batch.id).wait(timeout_s=30, progress=True).is_final
    batch.wait()
    assert (batch.status, batch.data["metadata"]) == ("completed", {"run": "1"})
    assert batch.counts == {"total": len(inputs), "completed": len(DIGITS), "failed": 1}
    lines = {line.custom_id: line for line in batch.results()}
    broken = lines.pop("broken")
    assert broken.error is not None
    assert (broken.error["code"], broken.output) == ("invalid_image", None)
    assert {name: label(line) for name, line in lines.items()} == {path.name: path.name[0] for path in DIGITS}
    again = batch.retry().wait(timeout_s=30)
    assert [line.custom_id for line in again.results()] == ["broken"]


def test_a_batch_that_cannot_run_and_one_that_is_cancelled(jitney: Jitney) -> None:
    failed = jitney.create_batch("double", [{"tensors": {"x": [1.0]}}], rows=0).wait(timeout_s=30)
    assert failed.status in {"failed", "completed"}
    if failed.status == "failed":
        with pytest.raises(BatchFailed):
            list(failed.results())
    with pytest.raises(ValueError, match="one input or more"):
        jitney.create_batch("double", [])
    running = jitney.create_batch("slow", ({"tensors": {"x": [1.0, 2.0, 3.0, 4.0]}} for _ in range(400)))
    with pytest.raises(WaitTimeout, match="batch"):
        running.wait(timeout_s=0.2)
    assert running.cancel().status in {"cancelling", "cancelled"}
    assert running.wait(timeout_s=30).status == "cancelled"


async def test_the_asynchronous_client_does_the_same(async_jitney: AsyncJitney) -> None:
    batch = await async_jitney.create_batch("digits", ({"image": path} for path in DIGITS))
    await batch.wait(timeout_s=30)
    labels = {int(line.custom_id or "-1"): label(line) async for line in batch.results()}
    assert labels == {index: path.name[0] for index, path in enumerate(DIGITS)}
    assert (await (await async_jitney.batch(batch.id)).refresh()).counts["completed"] == len(DIGITS)
