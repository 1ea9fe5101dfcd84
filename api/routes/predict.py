"""Serves `POST /predict` with the request and response format of the classic Flask tutorial, over the same queue."""

import asyncio
from contextlib import suppress

import orjson

from api.asgi.request import Request
from api.asgi.responses import HttpResponse, Receive
from api.gateway.gateway import Gateway
from api.gateway.job_responses import server_timing
from api.submission.parsing import read_form
from api.submission.single_submit import SingleSubmit
from api.submission.submit import admit_single
from jobs.contract.errors import Refused
from jobs.contract.job import Job
from jobs.contract.lifecycle import State

PATH = "/predict"


async def predict(gateway: Gateway, request: Request, receive: Receive) -> HttpResponse:
    """Classify what a form has and wait for the result: 200 with labels and probabilities, best first."""
    settings = gateway.settings
    submit = await _submit_form(gateway, request, receive)
    keyed = bool(request.header(b"idempotency-key"))  # a caller with a key may retry
    cancels = settings.disconnect_cancels and not keyed
    hang_up = asyncio.create_task(_wait_for_disconnect(receive)) if cancels else None
    if hang_up is not None:
        hang_up.add_done_callback(lambda _: submit.end())
    try:
        job = await submit.outcome()
        request.identify(job.id)
        if hang_up is not None and hang_up.done() and not job.is_final:
            with suppress(Refused):  # it has just become final
                await gateway.store.cancel(job.id, job.tenant)
    finally:
        if hang_up is not None:
            hang_up.cancel()
    if not job.is_final:
        message = f"the job is not final within {settings.predict_wait_s:g} s and goes on: read it at /v1/jobs/{job.id}"
        raise Refused("wait_over", message, job=job.id, limit_s=settings.predict_wait_s)
    with gateway.outputs.hold(request.tenant, request.evict) as share:
        share.grow(job.output_bytes or 0)
        predictions = _predictions(await gateway.store.with_output(job))
    body = orjson.dumps({"success": True, "predictions": predictions})
    return HttpResponse(200, body, (server_timing(job),))


async def _submit_form(gateway: Gateway, request: Request, receive: Receive) -> SingleSubmit:
    settings, key = gateway.settings, request.header(b"idempotency-key")
    share = gateway.reserve_body(request, key)
    try:
        body = await request.body(receive, share, settings.max_body_bytes)
        request.query()
        job_request = await read_form(request, body)
        job = admit_single(gateway, request.tenant, job_request, key)
        return SingleSubmit(gateway, job, wait_s=settings.predict_wait_s, share=share)
    except BaseException:
        share.release()
        raise


async def _wait_for_disconnect(receive: Receive) -> None:
    """Return once the caller has disconnected. Call it after the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _predictions(job: Job) -> list[dict[str, object]]:
    if job.state != State.SUCCEEDED or job.output is None:
        error = orjson.loads(job.error or b"{}")
        raise Refused(error["code"], error["message"], job=job.id)
    output = orjson.loads(job.output)
    if "predictions" not in output:
        raise Refused("invalid_input", f"model {job.model} returns no predictions: send its jobs to /v1/jobs")
    return [{"label": each["label"], "probability": each["probability"]} for each in output["predictions"]]
