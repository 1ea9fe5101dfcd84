"""`jitney models`: an operator's commands and their output."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.api.conftest import gateway, queue, worker
from tests.support.api_keys import callers
from tests.support.gateways import GatewayProcess, Worker
from tests.support.servers import Server

ROOT = Path(__file__).parents[4]

__all__ = ["gateway", "queue", "worker"]


def jitney_models(url: str, *args: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli.main", "models", *args]
    env = {**os.environ, "JITNEY_URL": url}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=30)


async def test_each_verb_takes_effect_and_shows_the_result(gateway: GatewayProcess, worker: Worker) -> None:
    url = str(gateway.http.base_url)
    await worker.announce(gateway, version="2")
    shown = jitney_models(url, "share", "m", "1", "40")
    assert "version 1" in shown.stderr or shown.returncode == 0
    listed = jitney_models(url, "list")
    assert listed.returncode == 0
    assert [line.split()[:3] for line in listed.stdout.splitlines()[1:]][-1] == ["m", "2", "ready"]
    assert '"plan"' in jitney_models(url, "list", "m", "--json").stdout
    assert jitney_models(url, "promote", "m", "2").returncode == 0
    assert jitney_models(url, "load", "m").returncode == 0
    assert jitney_models(url, "unload", "m").returncode == 0
    assert gateway.submit().status_code == 503
    assert jitney_models(url, "follow", "m").returncode == 0
    assert gateway.submit().status_code == 202
    refused = jitney_models(url, "rollback", "m")
    assert (refused.returncode, "nothing" in refused.stderr or "no canary" in refused.stderr) == (1, True)
    await worker.succeed(await worker.claim(version="2"))


@pytest.mark.parametrize("args", [(), ("explode",), ("--help",)])
def test_a_call_without_a_verb_lists_all_verbs(args: tuple[str, ...]) -> None:
    done = jitney_models("http://127.0.0.1:9", *args)
    assert done.returncode == (0 if "--help" in args else 64)
    assert "promote" in done.stdout + done.stderr


@pytest.mark.parametrize(("url", "code"), [("http://127.0.0.1:9", 69), ("127.0.0.1", 78), ("ftp://x", 78)])
def test_an_unreachable_gateway_is_reported(url: str, code: int) -> None:
    done = jitney_models(url, "list")
    assert (done.returncode, "Traceback" in done.stderr, url in done.stderr) == (code, False, True)


def test_the_default_gateway_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to call the default port silently."""
    monkeypatch.setenv("JITNEY_PORT", "9")
    done = jitney_models("", "list")
    told = "jitney models: using the gateway at http://127.0.0.1:8000; --url or JITNEY_URL sets another"
    assert done.stderr.splitlines()[0] == told


def test_the_api_key_of_the_environment_is_sent(
    queue: Server, gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    (caller,) = callers(queue, gateway, "acme")
    key = caller.headers["authorization"].removeprefix("Bearer ")
    url = str(gateway.http.base_url)
    assert jitney_models(url, "list").returncode == 1
    monkeypatch.setenv("JITNEY_API_KEY", key)
    assert jitney_models(url, "list").returncode == 0
