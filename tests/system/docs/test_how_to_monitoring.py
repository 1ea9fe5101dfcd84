"""The page docs/how-to/monitoring.md: its metrics, labels and commands are those of a running service."""

import json
import re
from collections.abc import Iterator

import pytest
import yaml

from api.gateway.memory_watermark import BULK_SHARE
from api.settings import GatewaySettings
from jobs.metrics.histograms import BOUNDS
from tests.support.deploy import ALERTS, SUFFIXES, expressions
from tests.support.how_to import Page, run_shell
from tests.support.service import DIGITS, Service
from tests.support.waiting import wait_until

PAGE = Page("monitoring.md")
NAMED = set(re.findall(r"\bjitney_\w+", " ".join([PAGE.text, *expressions().values()])))


@pytest.fixture(scope="module")
def own() -> Iterator[Service]:
    with Service() as service:
        assert service.predict(DIGITS[0]).status_code == 200
        yield service


def test_every_metric_exists(own: Service) -> None:
    """The names of the page, of the dashboard and of the alerts are those of real scrapes."""
    wait_until(lambda: 'jitney_batch_size_count{model="digits"} 1.0' in own.http.get("/metrics").text, "it is counted")
    scraped = own.http.get("/metrics").text + own.http.get("/metrics/process").text
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", scraped, re.MULTILINE))
    histograms = {name + suffix for name, kind in kinds.items() if kind == "histogram" for suffix in SUFFIXES}
    assert NAMED - kinds.keys() - histograms == set()
    for expression in PAGE.blocks("promql"):  # rates are of counters, others of gauges
        rated = set(re.findall(r"(?:rate|increase)\((\w+)", expression))
        counted = {name for name in re.findall(r"jitney_\w+", expression) if name.endswith(("_total", *SUFFIXES))}
        assert rated == counted or "unless" in expression


def test_the_numbers_are_those_of_the_code() -> None:
    mark = GatewaySettings().memory_watermark
    assert f"from {mark * BULK_SHARE:g} on, all jobs from {mark:g} on" in str(ALERTS)
    assert max(BOUNDS["total"]) == 30_000


def test_the_health_checks_answer_as_shown(own: Service) -> None:
    shown = json.loads(PAGE.blocks("json")[0])
    assert json.loads(run_shell(PAGE.block("sh", "/readyz"), own.url, own.folder)) == shown
    assert own.http.get("/readyz/models/digits").status_code == 200
    assert own.http.get("/readyz/models/unknown").status_code == 404


def test_the_key_for_prometheus(own: Service) -> None:
    data = {"JITNEY_DATA_DIR": str(own.folder / "data")}
    key = run_shell(PAGE.block("sh", "keys create"), own.url, own.folder, data).strip()
    wait_until(lambda: own.http.get("/metrics").status_code == 401, "keys are needed")
    bearer = {"authorization": f"Bearer {key}"}
    for path, status in (("/metrics", 200), ("/metrics/process", 200), ("/v1/jobs", 403), ("/v1/models", 403)):
        assert own.http.get(path, headers=bearer).status_code == status, path
    scrape = yaml.safe_load(PAGE.block("yaml", "scrape_configs"))
    assert scrape["scrape_configs"][0]["job_name"] == "jitney"
