"""The expressions of the dashboard and the alerts of `deploy/`, and the metrics that they name."""

import json
import re
from typing import Any

import yaml

from tests.support.processes import ROOT

RULES: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus/jitney-rules.yml").read_text())
ALERTS: list[dict[str, Any]] = RULES["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/jitney.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
REFERENCE = (ROOT / "docs/reference/metrics.md").read_text()
SUFFIXES = ("_bucket", "_sum", "_count")


def expressions() -> dict[str, str]:
    """Return each expression by the name of its alert or panel."""
    of_alerts = {rule["alert"]: rule["expr"] for rule in ALERTS}
    of_panels = {
        f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
    }
    return of_alerts | of_panels


def documented(page: str) -> dict[str, tuple[str, set[str]]]:
    """Return type and labels of each metric of the reference."""
    rows = re.findall(r"^\| `(jitney_\w+)` \| (\w+) \| (.*?) ?\| .+ \|$", page, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def family(sample: str) -> str:
    """Return the metric of a sample in an expression: of a histogram without its suffix."""
    known = documented(REFERENCE)
    return sample if sample in known else re.sub(f"({'|'.join(SUFFIXES)})$", "", sample)


def samples(expression: str) -> list[tuple[str, str]]:
    """Return each metric of an expression with its selector."""
    return re.findall(r"\b(jitney_\w+|up)\b(?:\{(.*?)\})?", expression)
