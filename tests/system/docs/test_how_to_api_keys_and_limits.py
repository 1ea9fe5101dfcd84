"""The page docs/how-to/api-keys-and-limits.md, executed as it stands."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.how_to import Page, run_shell
from tests.support.service import DIGITS, Service
from tests.support.waiting import wait_until

PAGE = Page("api-keys-and-limits.md")


@pytest.fixture(scope="module")
def keyed() -> Iterator[tuple[Service, Path, list[str]]]:
    """A service with the two documented keys."""
    with Service() as service:
        create = PAGE.block("sh", "keys create")
        keys = run_shell(create, service.url, service.folder, data(service)).split()
        assert [key[:3] for key in keys] == ["jk_", "jk_"]
        wait_until(lambda: service.http.get("/v1/jobs").status_code == 401, "the gateway knows the keys")
        yield service, service.folder, keys


def data(service: Service) -> dict[str, str]:
    return {"JITNEY_DATA_DIR": str(service.folder / "data")}


def shown(status: int, code: str) -> tuple[set[str], dict[str, object]]:
    """The names of the documented headers, and the documented body."""
    (found,) = [
        block for block in PAGE.blocks("") if block.startswith(f"HTTP/1.1 {status}") and f'"code":"{code}"' in block
    ]
    head, _, body = found.partition("\n\n")
    return set(re.findall(r"^([\w-]+):", head, re.MULTILINE)), json.loads(body)


def matches(answer: httpx2.Response, status: int, code: str) -> None:
    names, body = shown(status, code)
    assert answer.status_code == status
    assert names <= answer.headers.keys()
    found = answer.json()
    assert found.keys() == body.keys()
    numbers = re.compile(r"\d+")
    assert {k: numbers.sub("#", str(v)) for k, v in found.items()} == {
        k: numbers.sub("#", str(v)) for k, v in body.items()
    }


def test_keys_and_roles(keyed: tuple[Service, Path, list[str]]) -> None:
    service, folder, (key, admin) = keyed
    send = PAGE.block("sh", "X-API-Key")
    assert run_shell(send, service.url, folder, {"KEY": key}).count('{"jobs":[]') == 2
    matches(service.http.get("/v1/jobs"), 401, "unauthorized")
    matches(service.http.get("/metrics", headers={"x-api-key": key}), 403, "forbidden")
    assert service.http.get("/metrics", headers={"x-api-key": admin}).status_code == 200
    for path in ("/", "/healthz", "/readyz", "/readyz/models/digits"):
        assert service.http.get(path).status_code == 200

    listed, revoke = PAGE.block("sh", "keys revoke").splitlines()
    third = run_shell("jitney keys create --tenant acme --note third", service.url, folder, data(service)).strip()
    rows = run_shell(listed, service.url, folder, data(service)).splitlines()
    (key_id,) = [row.split()[0] for row in rows if "third" in row]
    wait_until(
        lambda: service.http.get("/v1/jobs", headers={"api-key": third}).status_code == 200, "the third key works"
    )
    run_shell(revoke.replace("KEY_ID", key_id), service.url, folder, data(service))
    wait_until(lambda: service.http.get("/v1/jobs", headers={"api-key": third}).status_code == 401, "it is refused")


def test_limits(keyed: tuple[Service, Path, list[str]]) -> None:
    service, folder, (key, _) = keyed
    printed = run_shell(PAGE.block("sh", "tenants set"), service.url, folder, data(service))
    assert re.search(r"^acme +\(1\) +600 +10000 ", printed, re.MULTILINE)
    assert re.search(r"^trial +1 +60 +\(0\) +\(0\) +4 ", printed, re.MULTILINE)
    headers = {"x-api-key": key}

    run_shell("jitney tenants set acme --requests 3", service.url, folder, data(service))
    wait_until(lambda: service.http.get("/v1/jobs", headers=headers).status_code == 429, "requests are limited")
    matches(service.http.get("/v1/jobs", headers=headers), 429, "rate_limited")
    run_shell("jitney tenants set acme --requests default --jobs 2 --running 1", service.url, folder, data(service))
    wait_until(lambda: service.http.get("/v1/jobs", headers=headers).status_code == 200, "requests are not limited")
    worker = service.pid("worker")
    os.kill(worker, signal.SIGSTOP)  # so that jobs stay open
    try:
        image = DIGITS[0].read_bytes()
        ways = {**headers, "content-type": "image/png"}
        answers = [service.http.post("/v1/jobs", content=image, headers=ways) for _ in range(3)]
    finally:
        os.kill(worker, signal.SIGCONT)
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    matches(answers[2], 429, "quota_exceeded")
