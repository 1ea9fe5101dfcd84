"""`jitney models import` as a command, and a hub on loopback that has one repository."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.support.service import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def run(models_dir: Path, *words: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli.main", "models", "import", *words, "--models-dir", str(models_dir)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def refused(models_dir: Path, *words: str, env: Mapping[str, str] | None = None) -> str:
    """Import with an expected one-line refusal and an unchanged folder; return the line."""
    before = sorted(models_dir.rglob("*")) if models_dir.exists() else []
    done = run(models_dir, *words, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("jitney models import: ")
    assert done.stderr.count("\n") == 1
    assert (sorted(models_dir.rglob("*")) if models_dir.exists() else []) == before
    return done.stderr


def client_env(address: str, tmp_path: Path) -> dict[str, str]:
    """The environment in which the hub's client asks this address alone."""
    home = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "PATH": "/usr/bin:/bin"}
    return {**home, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_ETAG_TIMEOUT": "5", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class FakeHub:
    """A hub with the repository `name` at COMMIT. `tag`: its pipeline tag."""

    def __init__(self, name: str) -> None:
        self.files: dict[str, bytes] = {}
        self.tag: str | None = None
        hub, api = self, f"/api/models/{name}"

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                file = self.path.partition("?")[0].rpartition(f"/resolve/{COMMIT}/")[2]
                if self.path.startswith(f"{api}/revision/{COMMIT}"):
                    info: dict[str, Any] = {
                        "id": name,
                        "sha": COMMIT,
                        "pipeline_tag": hub.tag,
                        "siblings": [],
                        "tags": [],
                    }
                    self._send(200, json.dumps(info).encode(), "application/json")
                elif self.path.startswith(api):
                    sizes = {one: len(content) for one, content in hub.files.items()}
                    listed = [{"type": "file", "path": one, "size": size, "oid": COMMIT} for one, size in sizes.items()]
                    self._send(200, json.dumps(listed).encode(), "application/json")
                elif file in hub.files:
                    content = hub.files[file]
                    self._send(200, content if body else b"", "application/octet-stream", len(content))
                else:
                    self._send(404, b"{}", "application/json")

            def _send(self, status: int, data: bytes, kind: str, size: int | None = None) -> None:
                self.send_response(status)
                headers = {"Content-Type": kind, "Content-Length": str(len(data) if size is None else size)}
                etag = f'"{COMMIT[:32]}{size}"'
                for header, value in (headers | {"ETag": etag, "X-Repo-Commit": COMMIT}).items():
                    self.send_header(header, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
