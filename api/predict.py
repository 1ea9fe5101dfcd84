"""`POST /predict`: the contract of the classic Flask tutorial, kept to the letter, over the same queue."""

import orjson

from api.answers import Answer, Receive
from api.drafts import from_form
from api.gateway import Gateway
from api.receiving import Request
from jobs.errors import Refused
from jobs.job import Job
from jobs.lifecycle import State

PATH = "/predict"


async def predict(gateway: Gateway, request: Request, receive: Receive) -> Answer:
    """Classify the form's image and wait for the answer: 200 with label and probability, best first."""
    settings = gateway.settings
    body = await request.body(receive, settings.max_body_bytes, settings.receive_s)
    request.query()
    draft = await from_form(request, body)
    accepted, job = await gateway.submit(draft, request.header(b"idempotency-key"), settings.predict_wait_s)
    if not job.is_final:
        message = f"not done in time; the job goes on: read it at /v1/jobs/{accepted.id}"
        raise Refused("wait_over", message, job=accepted.id, limit_s=settings.predict_wait_s)
    return Answer(200, orjson.dumps({"success": True, "predictions": _predictions(job)}))


def _predictions(job: Job) -> list[dict[str, object]]:
    if job.state != State.SUCCEEDED or job.output is None:
        error = orjson.loads(job.error or b"{}")
        raise Refused(error["code"], error["message"], job=job.id)
    output = orjson.loads(job.output)
    if "predictions" not in output:
        raise Refused("invalid_input", f"model {job.model} gives no predictions: send its jobs to /v1/jobs")
    return [{"label": one["label"], "probability": one["probability"]} for one in output["predictions"]]
