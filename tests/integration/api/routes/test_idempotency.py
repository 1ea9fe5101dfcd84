"""An Idempotency-Key whose result has expired gives neither a second run nor a 404."""

from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server


async def test_a_key_whose_result_has_expired_says_so_on_both_routes(
    queue: Server, gateway: GatewayProcess, worker: Worker
) -> None:
    job_id = gateway.submit(idempotency_key="a").json()["id"]
    form = {"image": ("1.png", PNG)}
    await worker.succeed(await worker.claim())
    answer = gateway.submit(idempotency_key="a")
    assert (answer.status_code, answer.json()["status"]) == (202, "succeeded")
    with queue.client() as client:
        client.delete(f"jitney:{{s00}}:job:{job_id}")  # as its expiry does
    for prefer in ("", "wait=5"):
        answer = gateway.submit(idempotency_key="a", prefer=prefer)
        assert (answer.status_code, answer.json()["code"], answer.json()["job"]) == (410, "result_expired", job_id)
    assert "3600 s" in answer.json()["detail"]
    answer = gateway.http.post("/predict", files=form, data={"model": "m"}, headers={"idempotency-key": "a"})
    body = answer.json()
    assert (answer.status_code, body["success"], body["code"]) == (410, False, "result_expired")
    assert await worker.claim() == []
