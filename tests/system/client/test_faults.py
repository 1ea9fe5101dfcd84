"""`map` loses and doubles nothing while a gateway and a worker are killed and answers are lost; events go on."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from jitney_client import Jitney
from jitney_client.inputs import Input

from tests.support import models
from tests.support.cluster.proxy import Network, Proxy
from tests.support.service import Service
from tests.system.jobs.test_crashes import queue, totals

COUNT = 500


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    models.doubling(tmp_path / "models")
    models.slow(tmp_path / "models")
    with Service(tmp_path / "models") as running:
        yield running


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    network = Network()
    yield Proxy(network, int(service.port))
    network.close()


def assert_each_once(service: Service, jitney: Jitney, inputs: Iterator[Input], model: str = "double") -> None:
    results = list(jitney.map(model, inputs, concurrency=128))
    assert [result.output["tensors"]["y"]["data"][0] for result in results] == [2.0 * n for n in range(COUNT)]
    with queue(service) as client:
        assert totals(client, model) == (COUNT, COUNT)


def test_kills_of_gateway_and_worker(service: Service) -> None:
    pids = {part: service.pid(part) for part in ("worker", "api")}

    def inputs() -> Iterator[Input]:
        for n in range(COUNT):
            if part := {150: "worker", 300: "api"}.get(n):
                os.kill(pids[part], signal.SIGKILL)
            yield {"tensors": {"x": [float(n)] * 4}}

    with Jitney(service.url) as jitney:
        assert_each_once(service, jitney, inputs())


def test_lost_answers(service: Service, proxy: Proxy) -> None:
    def inputs() -> Iterator[Input]:
        for n in range(COUNT):
            if n in {100, 300}:
                proxy.cut_after(3000)  # requests arrive, answers break off
                threading.Timer(0.7, proxy.heal).start()
            yield {"tensors": {"x": [float(n)] * 4}}

    with Jitney(f"http://127.0.0.1:{proxy.port}") as jitney:
        assert_each_once(service, jitney, inputs())
        (*_, job) = jitney.submit_many("slow", [{"tensors": {"x": [1.0, 2.0, 3.0, 4.0]}}] * 100)
        assert not isinstance(job, Exception)
        proxy.cut_after(0)
        threading.Timer(0.7, proxy.heal).start()
        assert job.cancel().status == "canceled"  # by the attempt whose answer was lost


def test_events_go_on_after_an_interruption(proxy: Proxy) -> None:
    with Jitney(f"http://127.0.0.1:{proxy.port}") as jitney:
        x: Input = {"tensors": {"x": [1.0, 2.0, 3.0, 4.0]}}
        (*_, last) = jitney.submit_many("slow", [x] * 30)
        assert not isinstance(last, Exception)
        names = []
        for event in last.events():
            names.append(event.name)
            if event.name == "queued":
                proxy.cut()
                threading.Timer(0.3, proxy.heal).start()
        assert names == ["queued", "running", "succeeded"]
