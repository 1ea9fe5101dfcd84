"""Imports from files and local hubs: the resulting model folder, and nothing left after a failure."""

import http.server
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from model_runtime.repository.repository import ModelFolder, list_models
from tests.support import models
from tests.support.service import DIGITS, ROOT, Service

DIGITS_ONNX = ROOT / "models" / "digits" / "1" / "model.onnx"
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


def test_an_imported_file_can_be_served_at_once(tmp_path: Path) -> None:
    models.doubling(tmp_path / "elsewhere", "double")
    done = run(tmp_path / "models", str(tmp_path / "elsewhere" / "double" / "1" / "model.onnx"), "--name", "twice")
    assert (done.returncode, done.stderr) == (0, "")
    assert "twice: imported" in done.stdout
    assert "it takes tensors" in done.stdout
    (found,) = list_models(tmp_path / "models")
    assert isinstance(found, ModelFolder)
    assert (found.name, found.version, found.spec.task) == ("twice", "1", "tensor")
    with Service(tmp_path / "models") as service:
        job = {"model": "twice", "input": {"tensors": {"x": {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}}}}
        answer = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()
        assert answer["output"]["tensors"]["y"]["data"] == [2, 4, 6, 8]


def test_a_fixed_batch_size_is_made_dynamic_during_the_import(tmp_path: Path, shared_data: Path) -> None:
    done = run(tmp_path, str(shared_data / "models" / "squeezenet1.1_fp16.onnx"), "--preset", "torch", "--name", "half")
    assert (done.returncode, done.stderr) == (0, "")
    assert "its fixed batch size was removed" in done.stdout
    assert [path.name for path in (tmp_path / "half" / "1").iterdir()] == ["model.onnx"]


def test_a_failed_import_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    here = tmp_path / "models"
    shutil.copytree(ROOT / "models" / "digits", here / "digits")
    assert "ONNX" in refused(here, str(tmp_path / "text.onnx"))
    assert "already exists; allowed: another --name" in refused(here, str(DIGITS_ONNX), "--name", "digits")
    assert "is not a model name; allowed" in refused(here, str(DIGITS_ONNX), "--name", "../up")
    assert "allowed for images: one input" in refused(here, str(_of_numbers(tmp_path)), "--preset", "torch")
    assert "is neither a file nor a source; allowed: a path to an .onnx file, keras:ResNet50" in refused(
        here, "caffe:x"
    )
    assert "name a revision of o/r" in refused(here, "hf:o/r")


def _of_numbers(tmp_path: Path) -> Path:
    return models.doubling(tmp_path / "elsewhere", "double") / "1" / "model.onnx"


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_a_missing_library_is_reported_with_its_extra(tmp_path: Path) -> None:
    told = refused(tmp_path / "models", "timm:resnet18")
    assert 'pip install -e ".[timm]" in the checkout' in told


def test_a_library_that_fails_to_import_is_one_line(tmp_path: Path) -> None:
    library = tmp_path / "libraries" / "huggingface_hub.py"
    library.parent.mkdir()
    library.write_text("raise RuntimeError('operator nms does not exist')")
    told = refused(tmp_path / "models", f"hf:o/r@{COMMIT}", env={"PYTHONPATH": str(library.parent)})
    assert "huggingface_hub is installed but cannot be imported: operator nms does not exist" in told


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "no-folder"
    file.write_text("")
    done = run(file, str(DIGITS_ONNX))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot be written" in done.stderr


@pytest.fixture
def hub() -> Iterator[tuple[dict[str, bytes], str]]:
    """A hub on loopback with one repository, `o/digits`: its files, and the hub's address."""
    files: dict[str, bytes] = {}

    class Hub(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            name = self.path.partition("?")[0].rpartition(f"/resolve/{COMMIT}/")[2]
            if self.path.startswith("/api/models/o/digits"):
                listed = [{"type": "file", "path": one, "size": len(files[one]), "oid": COMMIT} for one in files]
                self._send(200, json.dumps(listed).encode(), "application/json")
            elif name in files:
                self._send(200, files[name] if body else b"", "application/octet-stream", len(files[name]))
            else:
                self._send(404, b"{}", "application/json")

        def _send(self, status: int, data: bytes, kind: str, size: int | None = None) -> None:
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(data) if size is None else size)}
            for name, value in (headers | {"ETag": f'"{COMMIT[:32]}{size}"', "X-Repo-Commit": COMMIT}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield files, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def on(address: str, tmp_path: Path) -> dict[str, str]:
    home = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "PATH": "/usr/bin:/bin"}
    return {**home, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_ETAG_TIMEOUT": "5", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def test_a_hub_repository_gives_the_preprocessing(hub: tuple[dict[str, bytes], str], tmp_path: Path) -> None:
    files, address = hub
    how = {"size": {"height": 28, "width": 28}, "do_normalize": False, "rescale_factor": 1 / 255, "resample": 2}
    names = {str(number): f"a {number}" for number in range(10)}
    files |= {
        "onnx/model.onnx": DIGITS_ONNX.read_bytes(),
        "onnx/model_quantized.onnx": b"another",
        "preprocessor_config.json": json.dumps(how).encode(),
        "config.json": json.dumps({"id2label": names}).encode(),
    }
    done = run(tmp_path / "models", f"hf:o/digits@{COMMIT}", env=on(address, tmp_path))
    # The digits take one channel, and a preprocessor_config.json does not tell of such: found before it is served.
    assert done.returncode == 1
    assert "produces [3, 28, 28] (channels, height, width)" in done.stderr
    assert list((tmp_path / "models").iterdir()) == []
    files["onnx/model.onnx"] = (models.mean_colour(tmp_path / "elsewhere") / "1" / "model.onnx").read_bytes()
    how["size"] = {"height": 8, "width": 8}
    files["preprocessor_config.json"] = json.dumps(how | {"do_rescale": False}).encode()
    files["config.json"] = json.dumps({"id2label": {"0": "red", "1": "green", "2": "blue"}}).encode()
    shutil.rmtree(tmp_path / "hf")
    done = run(tmp_path / "models", f"hf:o/digits@{COMMIT}", "--name", "colours", env=on(address, tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = list_models(tmp_path / "models")
    assert isinstance(found, ModelFolder)
    assert (found.spec.image.resize, found.spec.image.filter, found.spec.image.scale) == ((8, 8), "bilinear", 1.0)
    assert (found.path / "labels.txt").read_text() == "red\ngreen\nblue\n"
    with Service(tmp_path / "models") as service:
        files_ = {"image": (DIGITS[0].name, DIGITS[0].read_bytes())}
        answer = service.http.post("/predict", files=files_).json()
        assert {one["label"] for one in answer["predictions"]} == {"red", "green", "blue"}


def test_one_of_several_files_must_be_named(hub: tuple[dict[str, bytes], str], tmp_path: Path) -> None:
    files, address = hub
    env = on(address, tmp_path)
    assert "has no .onnx file" in refused(tmp_path / "models", f"hf:o/digits@{COMMIT}", env=env)
    files |= {"a.onnx": b"", "b.onnx": (models.doubling(tmp_path / "elsewhere", "d") / "1" / "model.onnx").read_bytes()}
    assert "has a.onnx, b.onnx; allowed: --file" in refused(tmp_path / "models", f"hf:o/digits@{COMMIT}", env=env)
    done = run(tmp_path / "models", f"hf:o/digits@{COMMIT}", "--file", "b.onnx", env=env)
    assert (done.returncode, "it has no preprocessor_config.json and takes tensors" in done.stdout) == (0, True)


def test_a_hub_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    told = refused(tmp_path / "models", f"hf:o/digits@{COMMIT}", env=on("http://127.0.0.1:9", tmp_path))
    assert f"cannot download o/digits@{COMMIT}" in told
