"""The files and commands of docs/how-to/several-machines.md, each part as processes of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.integration.test_containers import SETTINGS
from tests.support.api_keys import make_key
from tests.support.how_to import Page, running
from tests.support.servers import binary, free_port
from tests.support.service import DIGITS, ROOT
from tests.support.waiting import wait_until

PAGE = Page("several-machines.md")
FILES = {Path(block.splitlines()[0][2:]).name: block for block in PAGE.blocks("ini")}
ENV = dict(line.split("=", 1) for line in FILES["jitney.env"].splitlines()[1:])
MANIFESTS: list[dict[str, Any]] = [*yaml.safe_load_all(PAGE.blocks("yaml")[0])]


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[list[httpx2.Client]]:
    """Redis, two gateways, two workers and a background process, as on six machines; gives the gateways."""
    port = str(free_port())
    conf = FILES["redis.conf"].replace("10.0.0.10", "127.0.0.1").replace("port 6379", f"port {port}")
    (tmp_path / "redis.conf").write_text(conf.replace("/var/lib/jitney-redis", str(tmp_path)))
    url = f"redis://:CHANGE-ME@127.0.0.1:{port}/0"
    assert url.replace(f"127.0.0.1:{port}", "10.0.0.10:6379") in PAGE.text
    (tmp_path / "redis-url").write_text(url + "\n")
    env = {name: value.replace("/etc/jitney", str(tmp_path)) for name, value in ENV.items()}
    env |= {"JITNEY_MODELS_DIR": str(ROOT / "models"), "JITNEY_BULK_STORE": str(tmp_path / "bulk")}
    env |= {"JITNEY_LAME_DUCK_S": "0", "JITNEY_HOST": "127.0.0.1", "JITNEY_WORKERS": "1"}
    parts = [line.split()[1] for line in PAGE.block("sh", "jitney background").splitlines()]
    assert parts == ["api", "worker", "background"]
    with ExitStack() as stack:
        server = stack.enter_context(running([binary("redis-7.0"), "redis.conf"], tmp_path))
        wait_until(lambda: "Ready to accept" in server.read_text(), "Redis is ready")
        ports = [str(free_port()) for _ in range(2)]
        for part in parts:
            for own in ports if part != "background" else ports[:1]:
                words = [sys.executable, "-m", "cli.main", part]
                stack.enter_context(running(words, tmp_path, {**env, "JITNEY_PORT": own}))
        key = make_key(url, "ops")
        headers = {"authorization": f"Bearer {key}"}
        clients = [
            stack.enter_context(
                httpx2.Client(base_url=f"http://127.0.0.1:{own}", headers=headers, trust_env=False, verify=False)
            )
            for own in ports
        ]
        wait_until(lambda: all(_ready(client) for client in clients), "all parts are ready", 30)
        yield clients


def _ready(client: httpx2.Client) -> bool:
    try:
        answer = client.get("/readyz").json()
    except httpx2.TransportError:
        return False
    return answer.get("workers") == 2 and bool(client.get("/v1/jobs").is_success)


def test_the_parts_work_together_and_agree(gateways: list[httpx2.Client]) -> None:
    first, second = gateways
    answer = first.get("/readyz").json()
    assert (answer["warnings"], answer["queue"]["safe"]) == ([], True)
    headers = {"content-type": "image/png"}
    job = first.post("/v1/jobs?model=digits", content=DIGITS[0].read_bytes(), headers=headers).json()
    done = second.get(job["urls"]["self"], params={"wait": 10}).json()
    assert done["output"]["predictions"][0]["label"] == "0"
    (digits,) = second.get("/v1/models").json()["models"]
    assert digits["workers"] == 2


def test_the_settings_exist() -> None:
    assert ENV.keys() <= SETTINGS
    named = {name for manifest in MANIFESTS if manifest["kind"] == "ConfigMap" for name in manifest["data"]}
    assert named <= SETTINGS
    assert "JITNEY_CPUS" in SETTINGS


def test_the_shell_commands_can_be_parsed() -> None:
    for block in PAGE.blocks("sh"):
        subprocess.run(["bash", "-n", "-c", block], check=True)


def test_the_manifests_fit_each_other_and_the_settings() -> None:
    by_name = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in MANIFESTS}
    config = by_name["ConfigMap", "jitney"]["data"]
    pods = {name: one["spec"]["template"]["spec"] for (kind, name), one in by_name.items() if kind == "Deployment"}
    assert pods.keys() == {"jitney-api", "jitney-worker", "jitney-background"}
    for (kind, _), manifest in by_name.items():
        if kind in {"Deployment", "StatefulSet"}:
            assert manifest["spec"]["selector"]["matchLabels"] == manifest["spec"]["template"]["metadata"]["labels"]
    for pod in pods.values():
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": "jitney"}}]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    probe = pods["jitney-api"]["containers"][0]["readinessProbe"]
    lame_duck_s = float(config["JITNEY_LAME_DUCK_S"])
    assert probe["periodSeconds"] * probe["failureThreshold"] < lame_duck_s
    assert pods["jitney-api"]["terminationGracePeriodSeconds"] > lame_duck_s + 3
    assert pods["jitney-worker"]["terminationGracePeriodSeconds"] > float(config["JITNEY_DRAIN_S"]) + 2
    secret = by_name["Secret", "jitney-redis"]["stringData"]
    assert secret["url"] == f"redis://:{secret['password']}@jitney-redis:6379/0"
