"""Runs the configuration of docs/how-to/behind-nginx.md in front of two gateways, where nginx is installed."""

import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import httpx2
import pytest
import trustme

from api.settings import GatewaySettings
from jobs.bulk.settings import BulkSettings
from tests.support.how_to import Page, running
from tests.support.servers import free_port
from tests.support.service import DIGITS, ROOT, Service
from tests.support.waiting import wait_until

PAGE = Page("behind-nginx.md")
SITE, ZONE, LIMIT, REAL_IP = PAGE.blocks("nginx")


def seconds(name: str) -> set[int]:
    return {int(found) for found in re.findall(rf"\b{name} (\d+)s;", SITE)}


def test_the_timeouts_and_sizes_fit_those_of_the_gateway() -> None:
    gateway, bulk = GatewaySettings(), BulkSettings()
    waits = max(gateway.max_wait_s, gateway.predict_wait_s, gateway.sse_keepalive_s)
    assert min(seconds("proxy_read_timeout")) > waits
    assert max(seconds("keepalive_timeout")) < gateway.keepalive_timeout_s
    small, large = sorted(int(found) << 20 for found in re.findall(r"client_max_body_size (\d+)m;", SITE))
    assert small == gateway.max_body_bytes
    assert large > bulk.bulk_file_bytes
    for name in re.findall(r"^(JITNEY_\w+)=", PAGE.block("sh", "JITNEY_HOST"), re.MULTILINE):
        assert f"`{name}`" in (ROOT / "docs" / "reference" / "settings.md").read_text()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service() as service:
        yield service


@pytest.fixture(scope="module")
def second(service: Service) -> Iterator[str]:
    """Another gateway on the queue of the service; gives its port."""
    port = str(free_port())
    queue = f"unix://{service.folder}/data/server.sock"
    bulk = str(service.folder / "data" / "bulk")
    env = {"JITNEY_PORT": port, "JITNEY_REDIS_URL": queue, "JITNEY_BULK_STORE": bulk}
    with running([sys.executable, "-m", "api"], service.folder, env) as printed:
        wait_until(lambda: "listens" in printed.read_text(), "it listens", 30)
        yield port


@pytest.fixture(scope="module")
def proxied(
    service: Service, second: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx2.Client, "subprocess.Popen[bytes]"]]:
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    authority = trustme.CA()
    certificate = authority.issue_cert("jitney.example", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "fullchain.pem")
    certificate.private_key_pem.write_to_path(folder / "privkey.pem")
    https, plain = free_port(), free_port()
    site = SITE.replace("10.0.0.11:8000", f"127.0.0.1:{service.port}").replace("10.0.0.12:8000", f"127.0.0.1:{second}")
    site = site.replace("/etc/ssl/jitney.example", str(folder)).replace("listen 443", f"listen 127.0.0.1:{https}")
    site = site.replace("listen 80", f"listen 127.0.0.1:{plain}").replace("Host $host", "Host localhost")
    site = site.replace("    ssl_protocols", f"{LIMIT}{REAL_IP}    ssl_protocols")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    frame = f"pid {folder}/pid;\nerror_log {folder}/error.log;\ndaemon off;\nevents {{}}\n"
    (folder / "nginx.conf").write_text(f"{frame}http {{\naccess_log {folder}/log;\n{places}{ZONE}{site}}}\n")
    words = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    checked = subprocess.run([*words, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, env={**os.environ, "TZ": "UTC"})
    with httpx2.Client(base_url=f"https://127.0.0.1:{https}", timeout=30, trust_env=False, verify=trust) as client:

        def answers() -> bool:
            with suppress(httpx2.ConnectError):
                return client.get("/healthz").status_code == 200
            return False

        try:
            wait_until(answers, f"nginx answers: {(folder / 'error.log').read_text()}")
            redirect = httpx2.get(f"http://127.0.0.1:{plain}/v1/jobs?limit=1", trust_env=False, verify=False)
            assert (redirect.status_code, redirect.headers["location"][:8]) == (301, "https://")
            yield client, process
        finally:
            process.terminate()
            process.wait(timeout=10)


def test_requests_events_and_uploads_go_through(proxied: tuple[httpx2.Client, object]) -> None:
    client, _ = proxied
    for path in DIGITS[::5]:
        answer = client.post("/predict", files={"image": (path.name, path.read_bytes())})
        assert answer.json()["predictions"][0]["label"] == path.name[0]
    headers = {"content-type": "image/png"}
    job = client.post("/v1/jobs?model=digits", content=DIGITS[0].read_bytes(), headers=headers).json()
    with client.stream("GET", job["urls"]["events"]) as stream:
        names = [line for line in stream.iter_lines() if line.startswith("event: ")]
    assert names[-1] == "event: succeeded"
    with client.stream("GET", "/v1/events") as stream:  # its first bytes come at once, although nothing happens
        assert next(stream.iter_lines()) == "retry: 1000"
    assert client.get("/metrics").status_code == client.get("/readyz/models/digits").status_code == 403
    assert client.post("/v1/jobs", content=bytes((32 << 20) + 1), headers=headers).status_code == 413
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/jobs", "body": {}}\n'
    upload = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", line * 500_000)})
    assert (upload.status_code, upload.json()["bytes"]) == (200, len(line) * 500_000)


def test_a_gateway_that_stops_is_left_out(proxied: tuple[httpx2.Client, object], service: Service) -> None:
    client, _ = proxied
    service.kill("api")
    for path in DIGITS[:10]:
        answer = client.post("/predict", files={"image": (path.name, path.read_bytes())})
        assert answer.status_code in {200, 502}
    assert client.get("/v1/jobs").status_code == 200
