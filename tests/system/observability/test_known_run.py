"""The metrics of a run whose numbers are known, on two gateways and three workers, also after each was restarted."""

import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support import models
from tests.support.gateways import GatewayProcess
from tests.support.scrapes import Samples, scrape, select
from tests.support.servers import Server
from tests.support.service import DIGITS, ROOT
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

FLUSH = {"JITNEY_METRICS_FLUSH_S": "0.2"}
GOOD, BEYOND = 3, 9  # a row of the model `pick`, and one that makes its run fail
BROKEN_PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
CHANGING = re.compile(  # values of one moment, which differ between two scrapes
    r"jitney_(cpu_seconds|memory_bytes|event_loop_delay|server_memory|oldest_waiting|output_bytes|processes|running_jobs)"
)
TEMPLATES = (
    (r"/v1/jobs", "/v1/jobs"),
    (r"/v1/jobs/\w+", "/v1/jobs/{job_id}"),
    (r"/predict", "/predict"),
    (r"/readyz", "/readyz"),
    (r"/v1/models", "/v1/models"),
    (r"/metrics/process", "/metrics/process"),
    (r"/metrics", "/metrics"),
)


class Cluster:
    """Two gateways and three workers. `requests`: what was sent to each gateway, by method, route and status."""

    def __init__(self, models_dir: Path, stack: ExitStack) -> None:
        self.server = stack.enter_context(closing(Server()))
        self._models_dir, self._stack = models_dir, stack
        self.gateways = [self._gateway(number) for number in range(2)]
        self.workers = [self._worker() for _ in range(3)]

    requests: tuple[Counter[str], Counter[str]] = (Counter(), Counter())

    def _gateway(self, number: int) -> GatewayProcess:
        gateway = self._stack.enter_context(GatewayProcess(self.server, FLUSH))
        gateway.http.event_hooks["response"].append(lambda answer: self._count(number, answer))
        return gateway

    def _worker(self) -> WorkerProcess:
        env = {**FLUSH, "JITNEY_HEARTBEAT_S": "0.5"}
        worker = self._stack.enter_context(WorkerProcess(self.server, self._models_dir, env))
        worker.until("serves")
        return worker

    def _count(self, number: int, answer: httpx2.Response) -> None:
        path = answer.request.url.path
        route = next((route for pattern, route in TEMPLATES if re.fullmatch(pattern, path)), "unmatched")
        method = "" if route == "unmatched" else answer.request.method
        self.requests[number][f'method="{method}",route="{route}",status="{answer.status_code}"'] += 1

    def restart(self) -> None:
        """Stop each process by SIGTERM and start another in its place."""
        for number in range(2):
            assert self.gateways[number].stop() == -signal.SIGTERM
            self.gateways[number] = self._gateway(number)
        for number in range(3):
            assert self.workers[number].stop() == 0
            self.workers[number] = self._worker()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    models_dir = tmp_path_factory.mktemp("models")
    models.picking(models_dir)
    models.slow(models_dir)
    (models_dir / "digits").symlink_to(ROOT / "models" / "digits")
    with ExitStack() as stack:
        yield Cluster(models_dir, stack)


def pick(row: int) -> dict[str, Any]:
    tensor = {"datatype": "INT64", "shape": [1], "data": [row]}
    return {"model": "pick", "input": {"tensors": {"x": tensor}}}


def slow(**more: Any) -> dict[str, Any]:
    tensor = {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}
    return {"model": "slow", "input": {"tensors": {"x": tensor}}, **more}


class Run:
    """What was sent and what came of it, in numbers."""

    def __init__(self) -> None:
        self.submitted, self.finished = Counter[str](), Counter[str]()
        self.failed, self.refused = Counter[str](), Counter[str]()
        self.undecoded = 0

    def play(self, gateways: list[GatewayProcess]) -> None:
        """Send the same requests to each gateway."""
        for gateway in gateways:
            self._send(gateway.http)

    def _send(self, http: httpx2.Client) -> None:
        wait = {"prefer": "wait=20"}
        for row, code in ((GOOD, ""),) * 12 + ((BEYOND, "inference_failed"),) * 3:
            self._end("pick", http.post("/v1/jobs", json=pick(row), headers=wait).json(), code)
        many = [pick(GOOD), {"model": "pick"}, pick(GOOD), {"model": "unknown", "input": {"text": "a"}}]
        for entry in http.post("/v1/jobs", json=many, headers=wait).json()["jobs"]:
            if "id" in entry:
                self._end("pick", entry)
            else:
                self.refused[entry["error"]["code"]] += 1
        png = {"content-type": "image/png"}
        for _ in range(2):
            failed = http.post("/v1/jobs?model=digits", content=BROKEN_PNG, headers=png | wait).json()
            self._end("digits", failed, "invalid_image")
            self.undecoded += 1
        self._end(
            "digits", http.post("/v1/jobs?model=digits", content=DIGITS[0].read_bytes(), headers=png | wait).json()
        )
        assert http.post("/predict", files={"image": BROKEN_PNG}, data={"model": "digits"}).status_code == 422
        self._count_end("digits", "failed", "invalid_image")  # of a job, so that it is no refusal
        self.undecoded += 1
        self._refuse(http)
        self._cancel_and_expire(http)

    def _refuse(self, http: httpx2.Client) -> None:
        for _ in range(3):
            answer = http.post("/v1/jobs", json={"model": "unknown", "input": {"text": "a"}})
            self.refused[answer.json()["code"]] += 1
        self.refused[
            http.post("/v1/jobs", content=b"{", headers={"content-type": "application/json"}).json()["code"]
        ] += 1
        self.refused[http.get("/v1/jobs/00unknown").json()["code"]] += 1
        self.refused[http.get("/no/such/path").json()["code"]] += 1

    def _cancel_and_expire(self, http: httpx2.Client) -> None:
        jobs = [http.post("/v1/jobs", json=slow()).json()["id"] for _ in range(12)]
        overdue = [http.post("/v1/jobs", json=slow(deadline_ms=1)).json()["id"] for _ in range(2)]
        for job in reversed(jobs[-4:]):
            if (answer := http.delete(f"/v1/jobs/{job}")).status_code == 409:
                self.refused[answer.json()["code"]] += 1
        for job in [*jobs, *overdue]:
            self._end("slow", http.get(f"/v1/jobs/{job}?wait=20").json(), None)

    def _end(self, model: str, job: dict[str, Any], code: str | None = "") -> None:
        """Count the end of a job; it must have failed with `code`, unless that is None."""
        found = job["error"]["code"] if job["status"] == "failed" else ""
        assert code is None or found == code, job
        self._count_end(model, job["status"], found)

    def _count_end(self, model: str, status: str, code: str) -> None:
        self.submitted[model] += 1
        self.finished[f'model="{model}",outcome="{status}"'] += 1
        if status == "failed":
            self.failed[f'code="{code}",model="{model}"'] += 1

    def check_queue(self, seen: Samples) -> None:
        """Compare with the metrics of the whole queue."""
        assert select(seen, "jitney_jobs_submitted_total") == {f'model="{m}"': n for m, n in self.submitted.items()}
        assert select(seen, "jitney_jobs_finished_total") == self.finished
        assert select(seen, "jitney_jobs_failed_total") == self.failed
        assert select(seen, "jitney_refusals_total") == {f'code="{code}"': n for code, n in self.refused.items()}
        assert select(seen, "jitney_decode_errors_total") == {'kind="image",model="digits"': self.undecoded}
        faults = {'model="pick",version="1"': self.failed['code="inference_failed",model="pick"']}
        assert select(seen, "jitney_version_faults_total") == faults
        assert seen["jitney_dead_letters"] == sum(faults.values())
        sizes, work = select(seen, "jitney_batch_size_sum"), select(seen, "jitney_batch_work_total")
        padding = select(seen, "jitney_batch_padding_total")
        for model in ("pick", "digits"):
            ran = self.finished[f'model="{model}",outcome="succeeded"']
            assert sizes[f'model="{model}"'] == ran
            assert work[f'model="{model}"'] - padding.get(f'model="{model}"', 0) == ran
            total = select(seen, "jitney_stage_seconds_count")[f'model="{model}",stage="total"']
            assert total == self.submitted[model]
        assert sum(select(seen, "jitney_running_jobs").values()) == 0
        assert sum(select(seen, "jitney_waiting_jobs").values()) == 0
        live = {match[1]: n for name, n in seen.items() if (match := re.match(r'jitney_processes\{part="(\w+)"', name))}
        assert live == {"gateway": 2, "worker": 3}


def settled(run: Run, gateway: GatewayProcess) -> bool:
    """Whether the metrics are as the run; they are written a flush interval later."""
    try:
        run.check_queue(scrape(gateway.http))
    except (AssertionError, KeyError):
        return False
    return True


def check(run: Run, cluster: Cluster) -> None:
    """Compare both gateways with the run and with each other."""
    for gateway in cluster.gateways:
        try:
            wait_until(lambda gateway=gateway: settled(run, gateway), "the metrics are those of the run", 5)  # type: ignore[misc]
        except AssertionError:
            run.check_queue(scrape(gateway.http))
    one, other = (
        {name: value for name, value in scrape(gateway.http).items() if not CHANGING.match(name)}
        for gateway in cluster.gateways
    )
    assert one == other


def test_the_metrics_of_a_known_run_are_exact_also_after_restarts(cluster: Cluster) -> None:
    run = Run()
    for gateway in cluster.gateways:
        wait_until(lambda g=gateway: len(g.http.get("/readyz").json()["models"]) == 3, "all models are served")  # type: ignore[misc]
    run.play(cluster.gateways)
    check(run, cluster)
    own = [[scrape(gateway.http, "/metrics/process")] for gateway in cluster.gateways]
    cluster.restart()
    check(run, cluster)
    run.play(cluster.gateways)
    check(run, cluster)
    for number, gateway in enumerate(cluster.gateways):
        own[number].append(scrape(gateway.http, "/metrics/process"))  # it begins at zero after the restart
        counted, timed = Counter[str](), Counter[str]()
        for life in own[number]:
            counted.update(select(life, "jitney_http_requests_total"))
            timed.update(select(life, "jitney_http_request_seconds_count"))
        # A scrape counts itself when it has ended, so that the last scrapes of both lives are missing.
        assert without_scrapes(counted) == without_scrapes(cluster.requests[number])
        assert sum(timed.values()) == sum(counted.values())


def without_scrapes(requests: Counter[str]) -> dict[str, float]:
    return {name: count for name, count in requests.items() if "metrics" not in name}
