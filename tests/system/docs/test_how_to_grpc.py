"""The pages docs/how-to/grpc.md and docs/reference/grpc-api.md: the clients as they stand, and the table of errors."""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.grpc_server import status_codes
from api.grpc_server.server import STREAM_INFER
from api.grpc_server.service import PATH
from api.settings import GatewaySettings
from jobs.contract.errors import CODES, JitneyError
from tests.support import models
from tests.support.how_to import Page, run, run_shell
from tests.support.servers import free_port
from tests.support.service import ROOT, Service

PAGE = Page("grpc.md")
REFERENCE = (ROOT / "docs" / "reference" / "grpc-api.md").read_text()
ADDRESS = "127.0.0.1:8001"
APART = ROOT / ".venv" / "apart" / "bin" / "python"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("models"), free_port()
    models.doubling(folder)
    with Service(folder, env={"JITNEY_GRPC_PORT": str(port)}):
        yield f"127.0.0.1:{port}"


def test_a_generated_client(address: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("no grpcio-tools")
    run_shell(PAGE.block("sh", "protoc").replace("-I api", f"-I {ROOT}/api"), "", tmp_path)
    code = PAGE.block("python", "open_inference_pb2").replace(ADDRESS, address)
    printed = run([sys.executable, "-c", code], tmp_path, {"PYTHONPATH": str(tmp_path)})
    assert printed == "[2.0, 4.0, 6.0, 8.0]\n"


def test_tritonclient(address: str, tmp_path: Path) -> None:
    if not APART.exists() or subprocess.run([APART, "-c", "import tritonclient.grpc"], check=False).returncode:
        pytest.skip("no tritonclient: `make test` installs it")
    code = PAGE.block("python", "tritonclient").replace(ADDRESS, address)
    assert run([str(APART), "-c", code], tmp_path) == "[[2.0, 4.0, 6.0, 8.0], [10.0, 12.0, 14.0, 16.0]]\n"


def test_nginx_waits_longer_than_the_gateway(tmp_path: Path) -> None:
    site = PAGE.block("nginx", "grpc_pass")
    settings = GatewaySettings()
    assert int(re.findall(r"grpc_read_timeout (\d+)s", site)[0]) > settings.max_wait_s
    assert int(re.findall(r"keepalive_timeout (\d+)s", site)[0]) < settings.keepalive_timeout_s
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    (tmp_path / "site.conf").write_text(f"events {{}}\nhttp {{\n{re.sub(r'.*ssl.*', '', site)}\n}}\n")
    run(["nginx", "-t", "-p", str(tmp_path), "-c", str(tmp_path / "site.conf")], tmp_path)


def test_the_table_of_errors() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (`[a-z_`, ]+) \|$", REFERENCE, re.MULTILINE)
    told = [(code.strip("`"), name) for name, codes in rows for code in codes.split(", ")]
    assert sorted(told) == sorted((code, status_codes.status_code(JitneyError(code, "")).name) for code in CODES)


def test_every_method_is_in_the_reference() -> None:
    proto = (ROOT / "api" / "grpc_server" / "generated" / "open_inference.proto").read_text()
    methods = set(re.findall(r"^  rpc (\w+)\(", proto, re.MULTILINE))
    assert STREAM_INFER.removeprefix(PATH) in methods
    assert {name for name in methods if f"`{name}`" not in REFERENCE} == set()
