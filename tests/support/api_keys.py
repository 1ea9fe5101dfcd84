"""API keys for tests, and the operator's command for them."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

from jobs.redis_client.client import RedisClient
from jobs.tenants import api_keys
from jobs.tenants.api_keys import Role
from tests.support.documented import HOOKS
from tests.support.gateways import GatewayProcess
from tests.support.servers import Server
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def jitney_keys(url: str, *args: str) -> "subprocess.CompletedProcess[str]":
    """Run `jitney keys …` on a queue."""
    command = [sys.executable, "-m", "cli.main", "keys", *args]
    env = {**os.environ, "JITNEY_REDIS_URL": url}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=30)


def make_key(url: str, tenant: str, role: Role = "caller") -> str:
    """Make a key as `jitney keys create` does, without a process for it; gives it."""

    async def create() -> str:
        connection = RedisClient(url, 5)
        try:
            return (await api_keys.create_key(connection, tenant, role, ""))[1]
        finally:
            await connection.aclose()

    with ThreadPoolExecutor(1) as thread:  # the caller may run in an event loop
        return thread.submit(asyncio.run, create()).result()


class Caller(httpx2.Client):
    """The caller that has this key."""

    def __init__(self, gateway: GatewayProcess, key: str, **more: Any) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        url = f"http://127.0.0.1:{gateway.port}"
        options = {"timeout": 30, "trust_env": False, "verify": False, "event_hooks": HOOKS, **more}
        super().__init__(base_url=url, headers=headers, **options)
        gateway.clients.append(self)

    def submit(self, body: bytes, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """Submit an image to the model `m`."""
        return self.post("/v1/jobs?model=m", content=body, headers={"content-type": "image/png", **(headers or {})})


def wait_until_keys_are_asked_for(gateway: GatewayProcess) -> None:
    """Wait until the gateway asks for keys: one that knows no key yet is open to every caller."""
    wait_until(lambda: gateway.http.get("/v1/jobs").status_code == 401, "the gateway asks for keys")


def callers(queue: Server, gateway: GatewayProcess, *tenants: str) -> list[Caller]:
    """Make a key for each tenant (`admin` has that role), known to the gateway."""
    made = [Caller(gateway, make_key(queue.url, name, "admin" if name == "admin" else "caller")) for name in tenants]
    wait_until_keys_are_asked_for(gateway)
    wait_until(lambda: all(one.get("/v1/jobs").status_code == 200 for one in made), "the gateway knows all keys")
    return made
