"""All JSON routes read values with the same bounds, encodings and meaning of keys."""

import base64
import codecs
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.support.gateways import PNG, GatewayProcess, Worker

JSON, NDJSON = "application/json", "application/x-ndjson"
IMAGE = base64.b64encode(PNG).decode()
JOB = {"model": "m", "input": {"image": IMAGE}}
DEEP = "[" * 1000 + "]" * 1000
MANY = "[" + "{}," * 1_000_000 + "{}]"

Ask = Callable[[GatewayProcess, bytes], httpx2.Response]


def post(path: str, kind: str = JSON, method: str = "POST") -> Ask:
    def ask(gateway: GatewayProcess, body: bytes) -> httpx2.Response:
        return gateway.http.request(method, path, content=body, headers={"content-type": kind})

    return ask


def form(field: str) -> Ask:
    def ask(gateway: GatewayProcess, body: bytes) -> httpx2.Response:
        return gateway.http.post("/v1/jobs", data={"model": "m", field: body.decode()}, files={"image": PNG})

    return ask


def query(field: str) -> Ask:
    def ask(gateway: GatewayProcess, body: bytes) -> httpx2.Response:
        params = {"model": "m", field: body.decode()}
        return gateway.http.post("/v1/jobs", params=params, content=PNG, headers={"content-type": "image/png"})

    return ask


def job(text: str) -> str:
    return f'{{"model": "m", "input": {{"tensors": {{"x": {text}}}}}}}'


def tensor(**fields: str) -> str:
    given = {"datatype": '"FP32"', "shape": "[4]", "data": "[1, 2, 3, 4]", **fields}
    return "{" + ", ".join(f'"{name}": {text}' for name, text in given.items()) + "}"


ROUTES: dict[str, tuple[Ask, str]] = {  # where a value may stand → how it is sent; %s stands for the value
    "a job's datatype": (post("/v1/jobs"), job(tensor(datatype="%s"))),
    "a job's shape": (post("/v1/jobs"), job(tensor(shape="%s"))),
    "a job's data": (post("/v1/jobs"), job(tensor(data="%s"))),
    "a job's b64": (
        post("/v1/jobs"),
        '{"model":"m","input":{"tensors":{"x":{"datatype":"FP32","shape":[4],"b64":%s}}}}',
    ),
    "a job's tensor": (post("/v1/jobs"), job("%s")),
    "a job's input": (post("/v1/jobs"), '{"model": "m", "input": %s}'),
    "a job's image": (post("/v1/jobs"), '{"model": "m", "input": {"image": %s}}'),
    "a job's model": (post("/v1/jobs"), '{"model": %s, "input": {"image": ""}}'),
    "a job's lane": (post("/v1/jobs"), '{"model": "m", "input": {"image": ""}, "lane": %s}'),
    "a job's parameters": (post("/v1/jobs"), '{"model": "m", "input": {"image": ""}, "parameters": %s}'),
    "a job's webhook": (
        post("/v1/jobs"),
        f'{{"model": "m", "input": {{"image": "{IMAGE}"}}, "webhook": {{"url": %s}}}}',
    ),
    "a job's metadata": (post("/v1/jobs"), '{"model": "m", "input": {"image": ""}, "metadata": {"a": %s}}'),
    "one of many jobs": (post("/v1/jobs"), f"[{json.dumps(JOB)}, %s]"),
    "a line of many jobs": (post("/v1/jobs?model=m", NDJSON), '{"input": {"image": %s}}'),
    "parameters of a form": (form("parameters"), '{"top_k": %s}'),
    "metadata of a form": (form("metadata"), '{"a": %s}'),
    "the webhook of a form": (form("webhook"), '{"url": %s}'),
    "parameters of a query": (query("parameters"), '{"a": %s}'),
    "a webhook that is attached": (post(f"/v1/jobs/00{'0' * 32}/webhook", method="PUT"), '{"url": %s}'),
    "a version to load": (post("/v1/models/m/load"), '{"version": %s}'),
    "a share": (post("/v1/models/m/share"), '{"version": "1", "percent": %s}'),
    "a batch's file": (post("/v1/batches"), '{"input_file_id": %s}'),
    "a batch to run again": (post("/v1/batches"), '{"retry_of": %s}'),
    "a batch's metadata": (post("/v1/batches"), '{"input_file_id": "x", "metadata": {"a": %s}}'),
    "a batch's expiry": (post("/v1/batches"), '{"input_file_id": "x", "output_expires_after": {"seconds": %s}}'),
    "a batch's webhook": (post("/v1/batches"), '{"input_file_id": "x", "webhook": %s}'),
    "a batch's window": (post("/v1/batches"), '{"input_file_id": "x", "completion_window": %s}'),
}
VALUES = {"1,000 levels": DEEP, "240 levels": "[" * 240 + "]" * 240, "5,000 digits": "9" * 5000, "30 digits": "9" * 30}


@pytest.mark.parametrize("where", ROUTES)
@pytest.mark.usefixtures("worker")
async def test_no_value_causes_a_server_error_in_any_place(gateway: GatewayProcess, where: str) -> None:
    """`"datatype": [[[…]]]` was a 500, and so were equally nested `retry_of` and `output_expires_after`."""
    ask, text = ROUTES[where]
    for what, value in VALUES.items():
        answer = ask(gateway, text.replace("%s", value).encode())
        assert answer.status_code < 500, (what, answer.text[:300])
        assert len(answer.content) < 2500, what
    assert "Traceback" not in gateway.log()


@pytest.mark.parametrize("where", ["a job's data", "a line of many jobs", "one of many jobs"])
@pytest.mark.usefixtures("worker")
async def test_values_are_counted_at_every_route(gateway: GatewayProcess, where: str) -> None:
    ask, text = ROUTES[where]
    answer = ask(gateway, text.replace("%s", MANY).encode())
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.usefixtures("worker")
async def test_a_body_may_begin_with_a_byte_order_mark(gateway: GatewayProcess) -> None:
    text = json.dumps(JOB)
    bodies = {text: JSON, f"[{text}, {text}]": JSON, f"{text}\r\n\ufeff\r\n{text}\r\n": NDJSON}
    for body, kind in bodies.items():
        answer = post("/v1/jobs", kind)(gateway, codecs.BOM_UTF8 + body.encode())
        assert answer.status_code == 202, answer.text
        assert len(answer.json().get("jobs", [0, 0])) == 2
    assert post("/v1/batches")(gateway, codecs.BOM_UTF8 + b'{"input_file_id": "x"}').json()["error"]["code"] == (
        "file_not_found"
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
@pytest.mark.usefixtures("worker")
async def test_another_encoding_is_refused_by_name(gateway: GatewayProcess, encoding: str) -> None:
    text = json.dumps(JOB)
    for body, kind in ((text, JSON), (f"[{text}]", JSON), (text, NDJSON)):
        answer = post("/v1/jobs", kind)(gateway, body.encode(encoding))
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
        assert encoding[:6].upper() in answer.json()["detail"]


@pytest.mark.parametrize("declared", [b"0" * 5000 + b"2", b"9" * 19, b"\xb2", b"+2", b"0x2", b"2" * 5000])
def test_no_declared_length_causes_a_server_error(gateway: GatewayProcess, declared: bytes) -> None:
    """`int()` refuses thousands of digits, even zeros, and the superscripts that `isdigit()` accepts."""
    for path in (b"/v1/jobs", b"/v1/files"):
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n" % path
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as connection:
            connection.sendall(head + b"Content-Length: " + declared + b"\r\n\r\n{}")
            connection.settimeout(10)
            answer = connection.recv(100)
        assert answer[9:10] == b"4", answer
    assert "Traceback" not in gateway.log()


FORMS = {"URL-safe": IMAGE.replace("+", "-").replace("/", "_"), "no padding": IMAGE.rstrip("="), "a line": IMAGE + "\n"}


@pytest.mark.parametrize("text", [*FORMS.values(), "data:image/png;base64," + IMAGE, " ".join(IMAGE)])
async def test_an_image_is_accepted_in_every_form_of_base64(gateway: GatewayProcess, worker: Worker, text: str) -> None:
    assert gateway.http.post("/v1/jobs", json={"model": "m", "input": {"image": text}}).status_code == 202
    assert [one.input for one in await worker.claim()] == [PNG]
    x = {"datatype": "FP32", "shape": [2], "b64": text}
    await worker.announce(gateway, name="bytes", inputs=[{"name": "x", "datatype": "FP32", "shape": [2]}], raw_bytes=8)
    if not text.startswith("data:"):
        assert gateway.http.post("/v1/jobs", json={"model": "bytes", "input": {"tensors": {"x": x}}}).status_code == 202


async def test_nested_data_equals_flat_data(gateway: GatewayProcess, worker: Worker) -> None:
    await worker.announce(gateway, inputs=[{"name": "x", "datatype": "FP32", "shape": [2, 2]}])
    for data in ([[1, 2], [3, 4]], [1, 2, 3, 4]):
        x = {"datatype": "FP32", "shape": [2, 2], "data": data}
        assert gateway.http.post("/v1/jobs", json={"model": "m", "input": {"tensors": {"x": x}}}).status_code == 202
    first, second = await worker.claim()
    assert first.input == second.input


async def test_a_boolean_model_accepts_booleans(gateway: GatewayProcess, worker: Worker) -> None:
    await worker.announce(gateway, inputs=[{"name": "x", "datatype": "BOOL", "shape": [2]}], raw_bytes=2)
    for data, status in (([True, False], 202), (["false", True], 422), ([0.5, 1], 422), ([[0], None], 422)):
        x = {"datatype": "BOOL", "shape": [2], "data": data}
        answer = gateway.http.post("/v1/jobs", json={"model": "m", "input": {"tensors": {"x": x}}})
        assert answer.status_code == status, answer.text
    for raw, status in ((b"\0\1", 202), (b"\0\2", 422)):
        headers = {"content-type": "application/octet-stream"}
        assert gateway.http.post("/v1/jobs?model=m", content=raw, headers=headers).status_code == status


@pytest.mark.parametrize("version", [None, False, 0, "", [], {}, 2])
async def test_a_version_may_be_named_or_omitted(gateway: GatewayProcess, worker: Worker, version: Any) -> None:
    """`{"version": null}` used to unload the whole model, as if no version were named."""
    await worker.announce(gateway, version="2")
    for verb in ("unload", "load", "promote"):
        answer = gateway.http.post(f"/v1/models/m/{verb}", json={"version": version})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), verb
    assert not gateway.http.get("/v1/models/m").json()["plan"]["unloaded"]


CHANGES = [{"deadline_ms": 5000}, {"deadline_ms": 7000}, {"metadata": {"a": "2"}}, {"webhook": "https://a.example/2"}]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.usefixtures("worker")
async def test_deadline_webhook_and_metadata_are_part_of_a_keys_request(
    gateway: GatewayProcess, change: dict[str, Any]
) -> None:
    base: dict[str, Any] = {**JOB, "metadata": {"a": "1"}, "webhook": "https://a.example/1"}
    if change == {"deadline_ms": 7000}:
        base["deadline_ms"] = 6000
    key = {"idempotency-key": "k"}
    asks: list[Callable[[dict[str, Any]], httpx2.Response]] = [
        lambda fields: gateway.http.post("/v1/jobs", json=fields, headers=key),
        lambda fields: gateway.http.post("/v1/jobs", json=[fields], headers={"idempotency-key": "many"}),
    ]
    for ask in asks:
        first, again, other = ask(base), ask(base), ask({**base, **change})
        assert (first.status_code, again.headers["idempotent-replayed"]) == (202, "true")
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


@pytest.mark.usefixtures("worker")
async def test_the_key_of_many_jobs_covers_the_whole_request(gateway: GatewayProcess) -> None:
    """A different body under the same key used to return the first body's batch."""
    files = {"file": ("a.jsonl", b"{}\n")}
    file = gateway.http.post("/v1/files", data={"purpose": "batch"}, files=files).json()["id"]
    key = {"idempotency-key": "night"}
    base = {"input_file_id": file, "metadata": {"a": "1"}}
    first, again = (gateway.http.post("/v1/batches", json=base, headers=key) for _ in range(2))
    assert (first.status_code, again.json()["id"]) == (200, first.json()["id"])
    for change in ({"metadata": {"a": "2"}}, {"completion_window": "1h"}, {"webhook": "https://a.example/"}):
        answer = gateway.http.post("/v1/batches", json={**base, **change}, headers=key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_mismatch")
        assert answer.headers["x-should-retry"] == "false"
