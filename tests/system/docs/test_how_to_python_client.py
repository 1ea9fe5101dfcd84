"""The page docs/how-to/python-client.md, executed as it stands, and its retries."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.support.how_to import Page, prepare_folder, run_python
from tests.support.service import Service

PAGE = Page("python-client.md")
BLOCKS = PAGE.blocks("python")
CLIENT = "\n".join(block for block in BLOCKS if not block.startswith("# with_"))
ALONE = [block for block in BLOCKS if block.startswith("# with_")]


def test_the_client_of_the_page_works(service: Service, tmp_path: Path) -> None:
    expected = ["succeeded 7", "succeeded 3", "failed invalid_image", "succeeded 5", str([str(n) for n in range(10)])]
    assert run_python(CLIENT, service.url, prepare_folder(tmp_path)).splitlines() == expected


@pytest.mark.parametrize("code", ALONE, ids=["requests", "urllib"])
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


@pytest.mark.parametrize("code", ["\n".join(BLOCKS[:2]), *ALONE], ids=["httpx", "requests", "urllib"])
def test_the_clients_repeat_a_request_with_its_key(busy: str, tmp_path: Path, code: str) -> None:
    assert run_python(code, busy, prepare_folder(tmp_path)).split()[-1] == "7"
    assert len(Busy.keys) == 3
    assert len({*Busy.keys}) == 1
