"""The dashboard and the alerts name metrics, labels and runbook entries that exist."""

import re
from typing import Any

import pytest
import yaml

from api.metrics.process_counters import STATUSES
from jobs.contract.errors import CODES
from jobs.contract.lifecycle import State
from jobs.metrics.histograms import STAGES
from tests.support.deploy import ALERTS, DASHBOARD, PANELS, REFERENCE, documented, expressions, family, samples
from tests.support.processes import ROOT

OF_QUEUE, OF_PROCESS = (documented(page) for page in REFERENCE.split("## One gateway"))
KNOWN = OF_QUEUE | OF_PROCESS | {"up": ("gauge", {"job"})}
OF_PROMETHEUS = {"instance", "pod", "le"}
VALUES: dict[str, set[str]] = {
    "code": {*CODES},
    "outcome": {*(state.value for state in State)},
    "stage": {*STAGES},
    "lane": {"interactive", "bulk", "suspect"},
    "status": {*map(str, STATUSES), "other"},
    "job": {"jitney", "jitney-process"},
}


@pytest.mark.parametrize(("name", "expression"), expressions().items())
def test_every_metric_and_label_of_an_expression_exists(name: str, expression: str) -> None:
    found = samples(expression)
    assert found, name
    kinds = {KNOWN[family(sample)][0] for sample, _ in found}
    labels = set[str]().union(*(KNOWN[family(sample)][1] for sample, _ in found)) | OF_PROMETHEUS
    for sample, selector in found:
        for label, operator, value in re.findall(r'(\w+)(=~|!=|=)"(.*?)"', selector):
            assert label in KNOWN[family(sample)][1], name
            if label in VALUES and "$" not in value:
                assert set(value.split("|") if operator == "=~" else [value]) <= VALUES[label], name
        is_counted = KNOWN[family(sample)][0] in {"counter", "histogram"}
        assert is_counted == bool(re.search(rf"(rate|increase)\({sample}\b", expression)), name
    for used in re.findall(r"\b(?:by|without) \((.*?)\)", expression):
        assert set(used.split(", ")) <= labels, name
    assert kinds


@pytest.mark.parametrize(("name", "expression"), expressions().items())
def test_the_whole_queue_is_never_added_up_over_gateways(name: str, expression: str) -> None:
    """Each gateway reports the same: the maximum is taken first. What is of one gateway is added up."""
    taken_once = re.sub(r"max without \(instance, pod\) \(.*?\)", "", expression.replace("\n", " "))
    for sample, _ in samples(taken_once):
        if (
            sample != "up"
            and family(sample) in OF_QUEUE
            and f"max without (instance, pod) (rate({sample}" not in expression
        ):
            assert re.search(rf"max(?: by \([\w, ]+\))? ?\((?:rate\()?{sample}", taken_once) or (
                f"max without (instance, pod) (increase({sample}" in expression
            ), name


def test_every_alert_has_an_entry_in_the_runbook_and_a_severity() -> None:
    entries = re.findall(r"^## (Jitney\w+)$", (ROOT / "docs/how-to/runbook.md").read_text(), re.MULTILINE)
    assert entries == [rule["alert"] for rule in ALERTS]
    assert {rule["labels"]["severity"] for rule in ALERTS} == {"critical", "warning"}
    assert all(rule["annotations"]["summary"] for rule in ALERTS)


def test_every_metric_of_the_reference_is_on_the_dashboard_or_in_an_alert() -> None:
    shown = {family(sample) for expression in expressions().values() for sample, _ in samples(expression)}
    left_out = {"jitney_build_info", "jitney_gateway_processes", "jitney_differing_processes"}  # facts, not curves
    left_out |= {"jitney_tenant_output_bytes", "jitney_bulks_ended_total", "jitney_webhook_deliveries_total"}
    assert KNOWN.keys() - shown - left_out == set()


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at: dict[str, Any] = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert all(panel["description"] for panel in PANELS)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_page_shows_the_scrapes_and_an_alert_as_they_are() -> None:
    page = (ROOT / "docs/how-to/monitoring.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert blocks[0] == {name: config[name] for name in ("rule_files", "scrape_configs")}
    (shown,) = blocks[1]["groups"][0]["rules"]
    assert shown in ALERTS
