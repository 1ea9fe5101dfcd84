"""The files of docs/how-to/systemd.md: systemd reads the units, a real Redis runs with its file, settings exist."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from api.__main__ import DRAIN_S
from background.settings import BackgroundSettings
from cli.serve.gateway_processes import STOP_TIMEOUT_S
from cli.serve.worker_processes import STOP_TIMEOUT_AFTER_DRAIN_S
from jobs.redis_client import durability
from tests.integration.test_containers import SETTINGS
from tests.support.how_to import Page, running
from tests.support.servers import binary
from tests.support.waiting import wait_until

FILES = {Path(block.splitlines()[0][2:]).name: block for block in Page("systemd.md").blocks("ini")}
UNITS = {name: text for name, text in FILES.items() if name.endswith(".service")}
ENV = dict(line.split("=", 1) for line in FILES["jitney.env"].splitlines()[1:])


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    for name, text in UNITS.items():
        unit = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(unit)
    words = [analyze, "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)]
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    found = [line for line in done.stderr.splitlines() if any(name in line for name in UNITS)]
    assert found == []
    assert len(UNITS) == 4


def test_the_settings_exist() -> None:
    assert ENV.keys() <= SETTINGS


def test_the_stop_timeouts_are_longer_than_what_the_processes_take() -> None:
    stop_s = {name: float(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[0]) for name, text in UNITS.items()}
    lame_duck_s, drain_s = float(ENV["JITNEY_LAME_DUCK_S"]), float(ENV["JITNEY_DRAIN_S"])
    assert stop_s["jitney-api.service"] >= lame_duck_s + max(DRAIN_S, STOP_TIMEOUT_S) + 1
    assert stop_s["jitney-worker.service"] >= drain_s + STOP_TIMEOUT_AFTER_DRAIN_S + 1
    assert stop_s["jitney-background.service"] >= BackgroundSettings().background_drain_s + 1
    for name, text in UNITS.items():
        assert ("RestartPreventExitStatus=78" in text) == (name != "jitney-redis.service")


def test_redis_runs_with_its_file_and_keeps_its_data(tmp_path: Path) -> None:
    socket = f"{tmp_path}/s"
    text = FILES["redis.conf"].replace("/run/jitney-redis/redis.sock", socket)
    text = text.replace("/var/lib/jitney-redis", str(tmp_path)).replace("supervised systemd\n", "")
    (tmp_path / "redis.conf").write_text(text)
    with running([binary("redis-7.0"), "redis.conf"], tmp_path), redis.Redis(unix_socket_path=socket) as client:

        def info() -> dict[str, object] | None:
            try:
                return client.info()  # type: ignore[no-any-return]
            except redis.ConnectionError:
                return None

        facts = wait_until(info, "Redis answers")
        reply = "\r\n".join(f"{name}:{value}" for name, value in facts.items()).encode()
        safety = durability.assess_server({}, reply)
        assert safety.is_durable, safety.warnings
        assert facts["maxmemory"] == 4 << 30
