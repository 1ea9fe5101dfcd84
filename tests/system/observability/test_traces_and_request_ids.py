"""One job through gateway, worker and webhook: its spans at a collector, and its log lines by the id of its request."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import pytest

from tests.support import models
from tests.support.background_process import BackgroundProcess
from tests.support.collector import Span, spans
from tests.support.gateways import GatewayProcess
from tests.support.receiver import Receiver, answer
from tests.support.servers import Server
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
LOG = {"JITNEY_LOG_FORMAT": "json", "JITNEY_ACCESS_LOG": "true"}
JOB: dict[str, Any] = {"model": "pick", "input": {"tensors": {"x": {"datatype": "INT64", "shape": [1], "data": [2]}}}}
BEYOND: dict[str, Any] = {
    "model": "pick",
    "input": {"tensors": {"x": {"datatype": "INT64", "shape": [1], "data": [9]}}},
}


class Cluster(NamedTuple):
    """The processes, a collector and a receiver of webhooks."""

    gateway: GatewayProcess
    worker: WorkerProcess
    background: BackgroundProcess
    collector: Receiver
    webhooks: Receiver

    def submit(self, job: Mapping[str, Any] = JOB, **headers: str) -> Any:
        fields = {"prefer": "wait=20", **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.gateway.http.post("/v1/jobs", json={**job, "webhook": f"{self.webhooks.url}/hook"}, headers=fields)

    def lines(self) -> list[dict[str, Any]]:
        """Return all log lines."""
        logs = (process.log() for process in (self.gateway, self.worker, self.background))
        return [json.loads(line) for log in logs for line in log.splitlines()]


def start(stack: ExitStack, models_dir: Any, collector: Receiver, env: dict[str, str]) -> Cluster:
    server = stack.enter_context(closing(Server()))
    gateway = stack.enter_context(GatewayProcess(server, {**LOG, **env, "JITNEY_WEBHOOK_ALLOW_CIDRS": "127.0.0.1/32"}))
    worker = stack.enter_context(WorkerProcess(server, models_dir, {"JITNEY_LOG_FORMAT": "json", **env}))
    background = stack.enter_context(BackgroundProcess(server, {"JITNEY_LOG_FORMAT": "json", **env}))
    webhooks = stack.enter_context(Receiver())
    wait_until(lambda: gateway.http.get("/readyz").json()["models"] == {"pick": "ready"}, "the model is served", 30)
    return Cluster(gateway, worker, background, collector, webhooks)


@pytest.fixture(scope="module", params=["traced", "untraced"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    models_dir = tmp_path_factory.mktemp("models")
    models.picking(models_dir)
    with ExitStack() as stack:
        collector = stack.enter_context(Receiver(answer(200)))
        is_traced = request.param == "traced"
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"} if is_traced else {}
        yield start(stack, models_dir, collector, env)


def found(cluster: Cluster, count: int, trace: str = TRACE) -> list[Span]:
    """Wait for a number of spans of a trace."""
    wait_until(
        lambda: len([span for span in spans(cluster.collector) if span.trace == trace]) >= count,
        f"{count} spans of the trace",
    )
    return [span for span in spans(cluster.collector) if span.trace == trace]


@pytest.mark.parametrize("cluster", ["traced"], indirect=True)
def test_the_trace_of_a_job_has_every_span_with_the_right_parent(cluster: Cluster) -> None:
    answered = cluster.submit(traceparent=TRACEPARENT)
    job_id = answered.json()["id"]
    by_name = {span.name: span for span in found(cluster, 6)}
    assert by_name.keys() == {"POST /v1/jobs", "queue", "preprocess", "infer", "write back", "webhook delivery"}
    request = by_name.pop("POST /v1/jobs")
    assert (request.parent, request.service) == (CALLER, "jitney-gateway")
    assert request.attributes["http.response.status_code"] == 200
    assert {span.parent for span in by_name.values()} == {request.id}
    assert {name: span.service for name, span in by_name.items()} == {
        **dict.fromkeys(("queue", "preprocess", "infer", "write back"), "jitney-worker"),
        "webhook delivery": "jitney-background",
    }
    (batch,) = [span for span in spans(cluster.collector) if span.name == "batch" and request.id in span.links]
    assert (batch.parent, batch.service) == ("", "jitney-worker")
    assert batch.trace != TRACE
    assert batch.links == [request.id]
    assert by_name["infer"].links == [batch.id]
    assert by_name["infer"].attributes["jitney.job.id"] == job_id
    order = [by_name[name] for name in ("queue", "preprocess", "infer", "write back")]
    assert all(span.begin <= span.end for span in order)
    assert [span.begin for span in order] == sorted(span.begin for span in order)
    (hook,) = cluster.webhooks.wait_for(1)
    assert hook.headers["traceparent"] == f"00-{TRACE}-{by_name['webhook delivery'].id}-01"


@pytest.mark.parametrize("cluster", ["traced"], indirect=True)
def test_a_request_without_a_place_in_a_trace_starts_one(cluster: Cluster) -> None:
    job_id = cluster.submit(x_request_id="starts-a-trace").json()["id"]
    (own,) = wait_until(
        lambda: [s for s in spans(cluster.collector) if s.attributes.get("jitney.request_id") == "starts-a-trace"],
        "the span of the request",
    )
    assert own.parent == ""
    queue = {span.name: span for span in found(cluster, 6, own.trace)}["queue"]
    assert (queue.parent, queue.attributes["jitney.job.id"]) == (own.id, job_id)


@pytest.mark.parametrize("cluster", ["traced"], indirect=True)
def test_a_trace_that_is_not_sampled_is_passed_on_and_not_exported(cluster: Cluster) -> None:
    other = "1" * 32
    hooks = len(cluster.webhooks.got)
    cluster.submit(traceparent=f"00-{other}-{CALLER}-00")
    passed_on = cluster.webhooks.wait_for(hooks + 1)[-1].headers["traceparent"].split("-")
    assert (passed_on[1], passed_on[3]) == (other, "00")
    cluster.submit(traceparent=f"00-{'2' * 32}-{CALLER}-01")
    found(cluster, 6, "2" * 32)
    assert [span for span in spans(cluster.collector) if span.trace == other] == []


@pytest.mark.parametrize("cluster", ["untraced"], indirect=True)
def test_without_opentelemetry_the_place_in_a_trace_is_passed_on_as_it_is(cluster: Cluster) -> None:
    for given, passed_on in ((TRACEPARENT, TRACEPARENT), ("00-not-valid-01", None), ("", None)):
        hooks = len(cluster.webhooks.got)
        cluster.submit(JOB, **({"traceparent": given} if given else {}))
        assert cluster.webhooks.wait_for(hooks + 1)[-1].headers.get("traceparent") == passed_on
    assert cluster.collector.got == []


@pytest.mark.parametrize("cluster", ["untraced"], indirect=True)
def test_the_log_lines_of_a_job_are_found_by_the_id_of_its_request(cluster: Cluster) -> None:
    answered = cluster.submit(BEYOND, x_request_id="order-17")
    assert answered.headers["x-request-id"] == "order-17"
    job_id = answered.json()["id"]

    def lines() -> list[dict[str, Any]]:
        return [
            line for line in cluster.lines() if "order-17" in (line.get("request_id"), *line.get("request_ids", ()))
        ]

    wait_until(lambda: len(lines()) >= 3, "all lines are written")
    request, failed, batch = sorted(
        lines(), key=lambda line: ("request", "job", "ran").index(line["message"].split()[0])
    )
    assert (request["part"], request["path"], request["status"]) == ("gateway", "/v1/jobs", 200)
    assert (failed["part"], failed["level"]) == ("worker", "warning")
    assert failed["message"].startswith(f"job {job_id} failed in model pick")
    assert (batch["part"], batch["message"], batch["items"]) == ("worker", "ran a batch", 1)


@pytest.mark.parametrize("cluster", ["untraced"], indirect=True)
def test_the_id_of_a_request_is_the_callers_or_the_jobs_or_a_new_one(cluster: Cluster) -> None:
    answered = cluster.submit()
    assert answered.headers["x-request-id"] == answered.json()["id"]
    http = cluster.gateway.http
    new = {http.get("/v1/jobs").headers["x-request-id"] for _ in range(3)}
    assert len(new) == 3
    for given, is_taken in (("a" * 128, True), ("a" * 129, False), ("a b", False), ("\u00e9", False), ("a;b=c", True)):
        sent = {b"x-request-id": given.encode()}
        for method, path in (("GET", "/v1/jobs"), ("GET", "/readyz"), ("GET", f"/v1/jobs/{answered.json()['id']}")):
            got = http.request(method, path, headers=sent).headers["x-request-id"]
            assert (got == given) == is_taken, (given, path)
            assert got


@pytest.mark.parametrize("cluster", ["untraced"], indirect=True)
def test_the_access_log_has_no_query_key_or_payload(cluster: Cluster) -> None:
    secret = "jk_0123456789abcdef_secret"  # noqa: S105 (of no key)
    headers = {"authorization": f"Bearer {secret}", "x-request-id": "with-secrets"}
    cluster.gateway.http.post(f"/v1/jobs?model=pick&key={secret}", content=secret.encode(), headers=headers)
    (line,) = wait_until(
        lambda: [line for line in cluster.lines() if line.get("request_id") == "with-secrets"], "the line is written"
    )
    assert line.keys() == {"time", "part", "level", "message", "method", "path", "status", "ms", "tenant", "request_id"}
    assert secret not in cluster.gateway.log()
    assert line["time"].endswith("Z")
