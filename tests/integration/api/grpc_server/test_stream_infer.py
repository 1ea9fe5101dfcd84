"""ModelStreamInfer: requests of a stream run at the same time, answers keep their order, errors are answers."""

from typing import Any

import numpy as np
from grpc import StatusCode

from tests.support.gateways import Worker
from tests.support.grpc_calls import VALUES, claim, double, doubled, error_of, request, until_states, values


async def test_requests_run_together_and_are_answered_in_their_order(stub: Any, worker: Worker) -> None:
    stream = stub.ModelStreamInfer()
    for number in range(5):
        await stream.write(request(VALUES + number, id=str(number)))
    jobs = sorted(await claim(worker, 5), key=lambda job: float(np.frombuffer((job.input or b"")[-16:], np.float32)[0]))
    await worker.fail(jobs[1:2])
    other = [job for job in jobs if job is not jobs[1]]
    for job in reversed(other):
        await worker.store.finish("w1", [doubled(job)])
    await stream.done_writing()
    answers = [answer async for answer in stream]
    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2", "3", "4"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False, False, False]
    assert answers[1].infer_response.parameters["jitney-code"].string_param == "inference_failed"
    assert [values(answer.infer_response)[0] for answer in answers if not answer.error_message] == [
        (2 * (VALUES + number)).tolist() for number in (0, 2, 3, 4)
    ]


async def test_an_error_does_not_end_a_stream_unless_it_is_asked_to(stub: Any, worker: Worker) -> None:
    stream = stub.ModelStreamInfer()
    bad = request(id="b")
    bad.inputs[0].shape[0] = 3
    for asked in (bad, request(id="g")):
        await stream.write(asked)
    await double(worker)
    answers = [await stream.read(), await stream.read()]
    assert [(answer.infer_response.id, bool(answer.error_message)) for answer in answers] == [("b", True), ("g", False)]
    stream.cancel()
    strict = stub.ModelStreamInfer(metadata=(("triton_grpc_error", "true"),))
    await strict.write(bad)
    error = await error_of(strict.read())
    assert error.code() == StatusCode.INVALID_ARGUMENT


async def test_a_stream_that_is_cancelled_cancels_its_jobs(stub: Any, worker: Worker) -> None:
    stream = stub.ModelStreamInfer()
    for _ in range(2):
        await stream.write(request())
    await until_states(worker, "queued", "queued")
    stream.cancel()
    await until_states(worker, "canceled", "canceled")
