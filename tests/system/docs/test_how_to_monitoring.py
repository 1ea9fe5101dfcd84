"""The page docs/how-to/monitoring.md: its metrics, labels and commands are those of a running service."""

import json
import re
from collections.abc import Iterator

import pytest
import yaml

from api.gateway.memory_watermark import BULK_SHARE
from api.settings import GatewaySettings
from jobs.contract.job import LANES
from jobs.contract.lifecycle import State
from jobs.metrics.histograms import BOUNDS, STAGES
from tests.support.how_to import Page, run_shell
from tests.support.service import DIGITS, Service
from tests.support.waiting import wait_until

PAGE = Page("monitoring.md")
RULES = yaml.safe_load(PAGE.block("yaml", "groups:"))["groups"][0]["rules"]
EXPRESSIONS = [rule["expr"] for rule in RULES] + PAGE.blocks("promql")
NAMED = set(re.findall(r"\bjitney_\w+", PAGE.text))


@pytest.fixture(scope="module")
def own() -> Iterator[Service]:
    with Service() as service:
        assert service.predict(DIGITS[0]).status_code == 200
        yield service


def test_every_metric_exists(own: Service) -> None:
    wait_until(lambda: 'jitney_batch_size_count{model="digits"} 1.0' in own.http.get("/metrics").text, "it is counted")
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", own.http.get("/metrics").text, re.MULTILINE))
    suffixes = ("_bucket", "_sum", "_count")
    histograms = {name + suffix for name, kind in kinds.items() if kind == "histogram" for suffix in suffixes}
    assert NAMED - kinds.keys() - histograms == set()
    for expression in EXPRESSIONS:  # rates are of counters, others of gauges
        rated = set(re.findall(r"(?:rate|increase)\((\w+)", expression))
        counted = {name for name in re.findall(r"jitney_\w+", expression) if name.endswith(("_total", *suffixes))}
        assert rated == counted or "unless" in expression
        assert "sum(jitney" not in expression.replace(" ", "")  # gateways report the same: never the sum


def test_every_label_exists() -> None:
    values = {
        "lane": {*LANES, "suspect"},
        "stage": {*STAGES},
        "outcome": {state.value for state in State},
        "job": {"jitney"},
    }
    found = [pair for expression in EXPRESSIONS for pair in re.findall(r'(\w+)="(\w+)"', expression)]
    assert {label for label, _ in found} == values.keys()
    assert [pair for pair in found if pair[1] not in values[pair[0]]] == []
    by = {
        label
        for expression in EXPRESSIONS
        for each in re.findall(r"by \(([\w, ]+)\)", expression)
        for label in each.split(", ")
    }
    assert by <= {"model", "le", "part", "check"}


def test_the_numbers_are_those_of_the_code() -> None:
    mark = GatewaySettings().memory_watermark
    assert f"from {mark * BULK_SHARE:g} on, all jobs from {mark:g} on" in PAGE.text
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
    assert own.http.get("/metrics", headers={"authorization": f"Bearer {key}"}).status_code == 200
    scrape = yaml.safe_load(PAGE.block("yaml", "scrape_configs"))
    assert scrape["scrape_configs"][0]["job_name"] == "jitney"
