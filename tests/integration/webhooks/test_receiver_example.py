"""The example receiver with a real delivery, and with a forged one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.integration.webhooks.conftest import WebhookStack
from tests.support.servers import free_port
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("background_process")]

EXAMPLE = Path(__file__).parents[3] / "examples" / "webhook_receiver.py"


@pytest.fixture
def example(post: WebhookStack, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Run it; gives its address and what it prints."""
    port, said = free_port(), tmp_path / "said"
    env = {**os.environ, "SECRET": post.secret(), "JITNEY_PORT": str(port)}
    with said.open("wb") as out, (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, EXAMPLE], env=env, stdout=out, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(url), "it listens")
        yield url, said
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False, verify=False).status_code == 501
    except httpx2.ConnectError:
        return False


async def test_the_example_verifies_and_prints_each_message_once(post: WebhookStack, example: tuple[str, Path]) -> None:
    url, said = example
    job = post.submit(url)
    await post.finish()
    delivery = post.ended(job, "delivered")
    assert post.gateway.http.post(delivery["urls"]["replay"]).status_code == 202
    wait_until(lambda: post.deliveries(job=job)[0]["tries"] == 2, "it is sent again")
    (line,) = said.read_text().splitlines()
    assert line.startswith(f"job.succeeded {job} {{'predictions'")


async def test_the_example_refuses_forged_messages(example: tuple[str, Path]) -> None:
    url, said = example
    headers = {"webhook-id": "x", "webhook-timestamp": "1", "webhook-signature": "v1,x v1,y"}
    assert httpx2.post(url, content=b"{}", headers=headers, trust_env=False, verify=False).status_code == 401
    assert said.read_text() == ""


def test_the_example_is_short_enough_to_copy() -> None:
    code = EXAMPLE.read_text().split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
