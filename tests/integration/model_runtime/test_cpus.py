"""JITNEY_CPUS takes a number of CPUs or a list of them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from cli.serve import worker_processes
from cli.serve.start_errors import BadSetting
from model_runtime import cpus
from tests.support.processes import ROOT
from worker.settings import WorkerSettings


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to have 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("text", "count", "named"),
    [
        ("8", 8, ()),
        ("8-15", 8, tuple(range(8, 16))),
        ("0,2-3", 3, (0, 2, 3)),
        (" 2-3 , 0 ", 3, (0, 2, 3)),
        ("3-3", 1, (3,)),
        ("1,1-2", 2, (1, 2)),
    ],
)
def test_a_number_or_a_list_is_accepted(
    text: str, count: int, named: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JITNEY_CPUS", text)
    settings = WorkerSettings()
    assert (settings.cpus, settings.cpus.named, settings.decode_threads) == (count, named, count)


@pytest.mark.parametrize(
    "text", ["0", "-1", "1025", "x", "3-", "5-2", "0,,1", "1-2-3", "0;1", "1e3", "٣", "2.5", "9" * 30]
)
def test_invalid_values_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(BadSetting, match=r"JITNEY_CPUS=.+: must be a number of CPUs from 1 to 1024, or a list"):
        worker_processes.Settings.from_env({"JITNEY_CPUS": text})


def test_missing_cpus_are_named() -> None:
    with pytest.raises(BadSetting, match="JITNEY_CPUS=8-16: this process may use CPUs 0-15; allowed"):
        worker_processes.Settings.from_env({"JITNEY_CPUS": "8-16"})


@pytest.mark.parametrize(
    ("env", "each"),
    [
        ({"JITNEY_WORKERS": "2", "JITNEY_CPUS": "4"}, ["4", "4"]),
        ({"JITNEY_WORKERS": "2", "JITNEY_CPUS": "8-15"}, ["8-11", "12-15"]),
        ({"JITNEY_WORKERS": "3", "JITNEY_CPUS": "0,2-3"}, ["0-0", "2-2", "3-3"]),
        ({"JITNEY_WORKERS": "3", "JITNEY_CPUS": "0,4"}, ["0,4", "0-0", "4-4"]),
        ({"JITNEY_WORKERS": "2"}, ["8", "8"]),
    ],
)
def test_a_list_is_divided_among_the_workers(env: Mapping[str, str], each: list[str]) -> None:
    children = worker_processes.worker_children(worker_processes.Settings.from_env(env), Path(), env)
    assert [child.env["JITNEY_CPUS"] for child in children] == each


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to CPUs")
def test_a_process_stays_on_the_listed_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    first = min(os.sched_getaffinity(0))
    bound = f"from model_runtime.cpus import bind_process, read_cpus; bind_process(read_cpus('{first}-{first}'))"
    code = f"import os; {bound}; print(os.sched_getaffinity(0))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{{{first}}}\n"
    assert cpus.format_cpus([0, 2, 3, 5]) == "0,2-3,5"
