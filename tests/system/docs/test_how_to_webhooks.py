"""The page docs/how-to/webhooks.md, executed as it stands, with its receiver."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.how_to import Page, prepare_folder, run_shell, running
from tests.support.servers import free_port
from tests.support.service import DIGITS, Service
from tests.support.waiting import wait_until

PAGE = Page("webhooks.md")
PORT = str(free_port())


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    (start,) = [block for block in PAGE.blocks("sh") if "jitney up" in block]
    name, value = start.split()[0].split("=")
    with Service(env={name: value}) as service:
        yield service


def test_the_steps_of_the_page_work(service: Service, tmp_path: Path) -> None:
    folder = prepare_folder(tmp_path)

    def sh(part: str, **ids: str) -> Any:
        block = PAGE.block("sh", part).replace(":9000", f":{PORT}")
        for placeholder, value in ids.items():
            block = block.replace(placeholder, value)
        return [
            json.loads(line)
            for line in run_shell(block + "\n", service.url, folder).replace("}{", "}\n{").split("\n")
            if line
        ]

    (receiver,) = PAGE.blocks("python")
    (folder / "receiver.py").write_text(receiver.replace("9000", PORT))
    secret = service.http.get("/v1/webhooks/secret").json()["key"]
    start = PAGE.block("sh", "SECRET=").splitlines()
    assert run_shell(f"{start[0]}\necho $SECRET", service.url, folder).strip() == secret
    assert start[1] == "SECRET=$SECRET python receiver.py"

    with running([sys.executable, "receiver.py"], folder, {"SECRET": secret}) as printed:

        def received(job: str) -> str:
            lines = wait_until(
                lambda: [line for line in printed.read_text().splitlines() if job in line], printed.read_text()
            )
            assert len(lines) == 1
            return lines[0]

        (first,) = sh("-F webhook=")
        assert received(first["id"]).startswith(f"job.succeeded {first['id']} {{'predictions': [{{'label': '7'")
        (second,) = sh('"events"')
        assert "'label': '3'" in received(second["id"])
        plain = service.submit(DIGITS[0].read_bytes(), wait=10, model="digits").json()
        (attached,) = sh("-X PUT", JOB_ID=plain["id"])
        assert attached["state"] == "waiting"
        received(plain["id"])

        delivered = wait_until(
            lambda: service.http.get("/v1/webhooks", params={"job": first["id"], "state": "delivered"}).json()[
                "deliveries"
            ],
            "the delivery has ended",
        )
        listed, failed, endpoints, again, replayed = sh(
            "/endpoints", JOB_ID=first["id"], DELIVERY_ID=delivered[0]["id"]
        )
        assert [one["id"] for one in listed["deliveries"]] == [delivered[0]["id"]] == [again["id"]]
        assert (failed["deliveries"], replayed["replayed"]) == ([], 0)
        assert [one["origin"] for one in endpoints["endpoints"]] == [f"http://127.0.0.1:{PORT}"]
        received(first["id"])  # once, although it was sent twice

        (rotated,) = sh("/rotate")
        assert rotated["previous"] == secret != rotated["key"]
        (third,) = sh("-F webhook=")
        received(third["id"])  # the receiver has the previous secret


def test_the_receiver_refuses_a_forged_message(service: Service, tmp_path: Path) -> None:
    (receiver,) = PAGE.blocks("python")
    (tmp_path / "receiver.py").write_text(receiver.replace("9000", PORT))
    secret = service.http.get("/v1/webhooks/secret").json()["key"]
    headers = {"webhook-id": "x", "webhook-timestamp": "1", "webhook-signature": "v1,eA=="}
    with running([sys.executable, "receiver.py"], tmp_path, {"SECRET": secret}):

        def forge() -> int:
            try:
                return service.http.post(f"http://127.0.0.1:{PORT}/hook", json={}, headers=headers).status_code
            except httpx2.ConnectError:
                return 0

        assert wait_until(forge, "the receiver answers") == 401
