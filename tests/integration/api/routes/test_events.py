"""Server-sent events: each change once and in order, also after a reconnect; none without a listener."""

import json
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple, cast

import httpx2
import pytest

from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from jobs.store.events import job_history
from tests.support.api_keys import callers, jitney_keys
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import wait_until

Q, R, S, C = State.QUEUED, State.RUNNING, State.SUCCEEDED, State.CANCELED
BEAT = ": beat"


class Event(NamedTuple):
    """One event as a browser would see it."""

    id: str
    name: str
    data: dict[str, Any]


@pytest.fixture(scope="module")
def gateway(queue: Server) -> Iterator[GatewayProcess]:
    with GatewayProcess(queue, {"JITNEY_SSE_KEEPALIVE_S": "0.3", "JITNEY_MAX_STREAMS": "3"}) as process:
        yield process


@contextmanager
def stream(client: httpx2.Client, path: str, last: str = "") -> Iterator[Iterator[Event | str]]:
    """Read a stream: parsed events, and raw comments."""
    headers = {"last-event-id": last} if last else {}
    with client.stream("GET", path, headers=headers) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        lines = cast("Generator[str]", answer.iter_lines())
        with closing(lines), closing(parsed(lines)) as read:
            yield read


def parsed(lines: Iterator[str]) -> Generator[Event | str]:
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            yield line
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            if "data" in fields:
                yield Event(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
            fields = {}


def events(read: Iterator[Event | str], count: int) -> list[Event]:
    """Read a number of events and skip comments."""
    found: list[Event] = []
    while len(found) < count:
        one = next(read)
        if isinstance(one, Event):
            found.append(one)
    return found


def beat(read: Iterator[Event | str]) -> None:
    """Wait until the stream sends a keepalive."""
    while (one := next(read)) != BEAT:
        assert isinstance(one, str), one


@pytest.mark.parametrize(
    ("state", "attempts", "ran", "states"),
    [
        (Q, 0, False, [Q]),
        (R, 1, True, [Q, R]),
        (S, 1, True, [Q, R, S]),
        (Q, 2, False, [Q, R, Q, R, Q]),
        (R, 3, True, [Q, R, Q, R, Q, R]),
        (S, 2, True, [Q, R, Q, R, S]),
        (C, 0, False, [Q, C]),
        (C, 1, False, [Q, R, Q, C]),
        (C, 1, True, [Q, R, C]),
    ],
)
def test_a_job_record_shows_its_history(state: State, attempts: int, ran: bool, states: list[State]) -> None:
    changes = job_history(state, attempts, ended_running=ran)
    assert [change.state for change in changes] == states
    assert [change.ordinal for change in changes] == list(range(1, len(states) + 1))


async def test_a_job_is_followed_to_its_end(gateway: GatewayProcess, worker: Worker) -> None:
    job_id = gateway.submit().json()["id"]
    url: str = gateway.http.get(f"/v1/jobs/{job_id}").json()["urls"]["events"]
    with stream(gateway.http, url) as read:
        (queued,) = events(read, 1)
        beat(read)
        (claimed,) = await worker.claim()
        (running,) = events(read, 1)
        await worker.store.release("w1", [claimed])
        (requeued,) = events(read, 1)
        await worker.succeed(await worker.claim())
        last = events(read, 2)
        assert list(read) == []  # the other side has ended it
    told = [queued, running, requeued, *last]
    assert [(one.id, one.name) for one in told] == [
        *(("1", "queued"), ("2", "running"), ("3", "queued"), ("4", "running"), ("5", "succeeded"))
    ]
    assert told[-1].data == gateway.http.get(f"/v1/jobs/{job_id}").json()
    assert {one.data["id"] for one in told} == {job_id}


@pytest.mark.parametrize("last", range(4))
async def test_a_reconnecting_listener_gets_the_missed_events(
    gateway: GatewayProcess, worker: Worker, last: int
) -> None:
    job_id = gateway.submit().json()["id"]
    await worker.succeed(await worker.claim())
    path = f"/v1/jobs/{job_id}/events"
    if last == 3:
        assert gateway.http.get(path, headers={"last-event-id": "3"}).status_code == 204
        return
    with stream(gateway.http, path, str(last or "")) as read:
        assert [one.id for one in read if isinstance(one, Event)] == ["1", "2", "3"][last:]


async def test_a_stream_of_all_jobs_sends_each_change_once_and_resumes(gateway: GatewayProcess, worker: Worker) -> None:
    with stream(gateway.http, "/v1/events") as read:
        beat(read)
        first, second = (gateway.submit().json()["id"] for _ in range(2))
        told = events(read, 2)
        await worker.claim(1)
        told += events(read, 1)
    await worker.claim(1)
    gateway.http.delete(f"/v1/jobs/{first}")
    with stream(gateway.http, "/v1/events", told[-1].id) as read:
        told += events(read, 2)
        beat(read)
    assert [(one.data["id"], one.name) for one in told] == [
        *((first, "queued"), (second, "queued"), (first, "running"), (second, "running"), (first, "canceled"))
    ]
    with stream(gateway.http, "/v1/events", "1-1") as read:
        assert events(read, 1)[0].name == "lost"
        assert [one.id for one in events(read, 5)] == [one.id for one in told]


async def test_every_transition_of_a_job_is_in_the_log(gateway: GatewayProcess, worker: Worker) -> None:
    with stream(gateway.http, "/v1/events") as read:
        beat(read)
        for end in ("release", "fail", "cancel", "retry"):
            gateway.submit()
            claimed = await worker.claim()
            if end == "retry":
                await worker.store.finish("w1", [Outcome(claimed[0].id, claimed[0].attempt, State.QUEUED, b"")])
            elif end == "release":
                await worker.store.release("w1", claimed)
            elif end == "fail":
                await worker.fail(claimed)
            else:
                gateway.http.delete(f"/v1/jobs/{claimed[0].id}")
        ways = [one.name for one in events(read, 14)]
    assert ways == [
        *("queued", "running", "queued"),
        *("queued", "running", "running", "failed", "failed"),
        *("queued", "running", "canceled"),
        *("queued", "running", "queued"),
    ]


async def test_a_plain_job_writes_no_log(anyio_backend: str) -> None:
    del anyio_backend
    queue = Server()
    with GatewayProcess(queue) as gateway:
        worker = Worker(queue)
        await worker.announce(gateway)
        gateway.submit()
        await worker.succeed(await worker.claim())
        gateway.submit()
        with queue.client() as client:
            assert list(client.scan_iter("*:job_events:*")) == []
            for key in client.scan_iter("jitney:{s00}:job:*"):
                assert client.hmget(key, "event_log", "followers") == [None, None]
        await worker.connection.aclose()
    queue.close()


async def test_another_gateway_writes_the_log_too(queue: Server, gateway: GatewayProcess, worker: Worker) -> None:
    with GatewayProcess(queue) as other, stream(gateway.http, "/v1/events") as read:
        await worker.announce(other)
        beat(read)
        wait_until(lambda: other.submit().status_code == 202 and logged(queue), "the other gateway has heard")
        assert events(read, 1)[0].name == "queued"


def logged(queue: Server) -> bool:
    with queue.client() as client:
        return bool(client.exists("jitney:{s00}:job_events:default"))


def test_a_stream_too_many_is_refused_until_another_ends(gateway: GatewayProcess) -> None:
    with (
        stream(gateway.http, "/v1/events"),
        stream(gateway.http, "/v1/events"),
        stream(gateway.http, "/v1/events") as third,
    ):
        beat(third)
        refused = gateway.http.get("/v1/events")
        assert (refused.status_code, refused.json()["code"], refused.json()["limit"]) == (429, "rate_limited", 3)
    wait_until(lambda: first_line(gateway) == "retry: 1000", "there is room again")


def first_line(gateway: GatewayProcess) -> str:
    with (
        gateway.http.stream("GET", "/v1/events") as answer,
        closing(cast("Generator[str]", answer.iter_lines())) as lines,
    ):
        return next(lines)


@pytest.mark.parametrize("path", ["/v1/events", "/v1/jobs/{}/events"])
@pytest.mark.parametrize("last", ["x", "-1", "1-", "9" * 40, "1-1.1-1"])
def test_an_invalid_event_position_is_refused(gateway: GatewayProcess, worker: Worker, path: str, last: str) -> None:
    del worker
    job_id = gateway.submit().json()["id"]
    answer = gateway.http.get(path.format(job_id), headers={"last-event-id": last})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_streams_end_at_once_when_the_gateway_stops(queue: Server) -> None:
    with (
        GatewayProcess(queue, {"JITNEY_SSE_KEEPALIVE_S": "0.3"}) as gateway,
        stream(gateway.http, "/v1/events") as read,
    ):
        beat(read)
        begun = time.monotonic()
        gateway.process.terminate()
        assert all(isinstance(one, str) for one in read)
        gateway.process.wait(timeout=10)
        assert time.monotonic() - begun < 1.5  # it is not waited for them
        assert "Traceback" not in gateway.log()


def test_foreign_streams_are_refused_and_a_revoked_key_ends_its_own(anyio_backend: str) -> None:
    del anyio_backend
    queue = Server()
    try:
        with GatewayProcess(queue, {"JITNEY_SSE_KEEPALIVE_S": "0.3"}) as gateway:
            acme, bolt = callers(queue, gateway, "acme", "bolt")
            unknown = "00" + "0" * 32
            assert bolt.get(f"/v1/jobs/{unknown}/events").json()["code"] == "job_not_found"
            key_id = next(
                line.split()[0] for line in jitney_keys(queue.url, "list").stdout.splitlines() if "acme" in line
            )
            with stream(acme, "/v1/events") as read:
                beat(read)
                jitney_keys(queue.url, "revoke", key_id)
                assert all(isinstance(one, str) for one in read)  # to its end
            assert bolt.submit(PNG).json()["code"] == "model_not_found"
    finally:
        queue.close()
