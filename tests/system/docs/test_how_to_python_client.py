"""The page docs/how-to/python-client.md, executed as it stands, and its retries."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.support.how_to import Page, prepare_folder, run_python
from tests.support.service import DIGITS, ROOT, Service

PAGE = Page("python-client.md")
BLOCKS = PAGE.blocks("python")
ALONE = [block for block in BLOCKS if block.startswith("# with_")]
CLIENT = "\n".join(block for block in BLOCKS if block not in ALONE)
ENV = {"PYTHONPATH": str(ROOT / "client")}


def test_the_client_of_the_page_works(service: Service, tmp_path: Path) -> None:
    first, code, job_id, *printed = run_python(CLIENT, service.url, prepare_folder(tmp_path), ENV).splitlines()
    assert (first, code, len(job_id)) == ("7", "invalid_image", 34)
    names = [path.name for path in DIGITS]
    batch = [str({"total": len(names), "completed": len(names), "failed": 0}), "8"]
    events = ["queued", "running", "succeeded"]
    assert [line for line in printed if line not in events] == ["3", *(f"{name} {name[0]}" for name in names), *batch]
    assert "succeeded" in printed


@pytest.mark.parametrize("code", ALONE, ids=["httpx", "requests", "urllib"])
def test_the_short_clients_work(service: Service, tmp_path: Path, code: str) -> None:
    assert run_python(code, service.url, prepare_folder(tmp_path)) == "7\n"


class Busy(BaseHTTPRequestHandler):
    """Refuses the first requests: 503 with Retry-After, then it hangs up; and records each request's key."""

    keys: list[str] = []  # noqa: RUF012 (shared by the handlers)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.keys.append(self.headers["idempotency-key"])
        if len(self.keys) == 2:
            self.close_connection = True
            return
        body = b'{"status": "succeeded", "output": {"predictions": [{"label": "7"}]}}'
        self.send_response(503 if len(self.keys) == 1 else 200)
        if len(self.keys) == 1:
            self.send_header("retry-after", "0")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def busy() -> Iterator[str]:
    Busy.keys.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("code", [BLOCKS[0], *ALONE], ids=["jitney_client", "httpx", "requests", "urllib"])
def test_the_clients_repeat_a_request_with_its_key(busy: str, tmp_path: Path, code: str) -> None:
    assert run_python(code, busy, prepare_folder(tmp_path), ENV).split()[-1] == "7"
    assert len(Busy.keys) == 3
    assert len({*Busy.keys}) == 1
