"""Prometheus' own tool checks the alerts and the example of a scrape."""

import os
import shutil
import subprocess

import pytest

from tests.support.processes import ROOT


def test_promtool_accepts_the_rules_and_the_scrapes() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("promtool is not installed")
    for check in (["rules", "jitney-rules.yml"], ["config", "--syntax-only", "prometheus.yml"]):
        command = [promtool, "check", *check]
        ended = subprocess.run(command, cwd=ROOT / "deploy/prometheus", capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
