"""`pip install ./client` in an empty environment: the client works there, with nothing of the service."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.service import DIGITS, ROOT, Service

CALLER = """
import importlib.util, sys
from pathlib import Path
from jitney_client import Jitney

with Jitney(sys.argv[1]) as jitney:
    image = {"image": Path(sys.argv[2])}
    labels = [result.output["predictions"][0]["label"] for result in jitney.map("digits", [image] * 3)]
    assert labels == [jitney.run("digits", image)["predictions"][0]["label"]] * 3
    try:
        jitney.map("digits", [], progress=True)
    except ImportError as error:
        print(error)
print([name for name in ("api", "jobs", "numpy", "redis", "tqdm") if importlib.util.find_spec(name)])
"""


def test_the_client_needs_nothing_of_the_service(service: Service, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "client", tmp_path / "client", ignore=ignored)  # a build writes beside the sources
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = str(tmp_path / "env" / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", "-q", str(tmp_path / "client")], check=True)
    listed = subprocess.run([*pip, "list", "--format=json"], check=True, capture_output=True, text=True).stdout
    names = {package["name"].replace("_", "-") for package in json.loads(listed)}
    assert {"jitney-client", "httpx2", "anyio"} <= names
    assert len(names) <= 10
    command = [python, "-I", "-c", CALLER, service.url, str(DIGITS[0])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ['progress=True needs tqdm: pip install "jitney-client[progress]"', "[]"], done
    typed = subprocess.run([*pip, "show", "-f", "jitney-client"], check=True, capture_output=True, text=True).stdout
    assert "jitney_client/py.typed" in typed
