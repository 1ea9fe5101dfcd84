"""The examples of the pages about models, executed as they stand: docs/how-to and docs/reference/model-toml.md."""

import ast
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import PIL.Image
import pytest
from onnx import TensorProto

from model_runtime.output_encoding import encode_output
from model_runtime.spec.model_toml import ModelSpec, read_spec
from model_runtime.tasks import Task, load_task
from model_runtime.tensor_spec import TensorSpec
from tests.support import models
from tests.support.model_files import audio, graphs, text
from tests.support.service import DIGITS, ROOT, Service
from tests.support.waiting import wait_until

DOCS: Final = ROOT / "docs"
HOW_TO: Final = (
    *("serve-a-model", "rollouts", "several-models", "lengths"),
    *("image-models", "tabular-models", "text-models", "audio-models", "custom-tasks", "custom-engines"),
    *("import-a-model", "gpus"),
)
REFERENCE: Final = (DOCS / "reference" / "model-toml.md").read_text()
PAGES: Final = {name: (DOCS / "how-to" / f"{name}.md").read_text() for name in HOW_TO}


def toml_blocks(page: str) -> list[str]:
    return re.findall(r"```toml\n(.+?)```", page, re.DOTALL)


def section(page: str, heading: str) -> str:
    """Return the text below a heading, up to the next heading of its level or a higher one."""
    level = heading.partition(" ")[0]
    (found,) = re.findall(rf"^{heading}\n(.+?)(?=^#{{2,{len(level)}}} |\Z)", page, re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve the documented models: sounds, BF16, and digits and doubling with custom tasks."""
    models_dir = tmp_path_factory.mktemp("models")
    kinds = {"x": TensorProto.BFLOAT16, "y": TensorProto.BFLOAT16}
    copy = models_dir / "copy"
    same = graphs.node("Identity", ["x"], ["y"])
    graphs.write(copy / "1" / "model.onnx", [same], {"x": ["N", 4]}, {"y": ["N", 4]}, kinds=kinds)
    (copy / "model.toml").write_text('task = "tensor"')
    toml = toml_blocks(PAGES["audio-models"])[0]
    (audio.statistics(models_dir, "sounds", toml) / "labels.txt").write_text("street\nbell\nrain")
    own = shutil.copytree(ROOT / "models" / "digits", models_dir / "parity")
    (code,) = re.findall(r"```python\n(# models/digits/parity\.py.+?)```", PAGES["custom-tasks"], re.DOTALL)
    (own / "parity.py").write_text(code)
    for name in ("basket", "loudness"):
        (code,) = re.findall(rf"```python\n(# models/{name}/{name}\.py.+?)```", PAGES["custom-tasks"], re.DOTALL)
        folder = models.doubling(models_dir, name, f'task = "{name}.py:{name.title()}"')
        (folder / f"{name}.py").write_text(code)
    toml = (own / "model.toml").read_text().replace('task = "image-classification"', 'task = "parity.py:Parity"')
    (own / "model.toml").write_text(toml)
    with Service(models_dir) as service:
        count = len([*models_dir.iterdir()])
        wait_until(lambda: len(service.http.get("/v1/models").json()["models"]) == count, "all models are served")
        yield service


@pytest.mark.parametrize("name", PAGES)
def test_each_toml_block_is_a_valid_model_toml(tmp_path: Path, name: str) -> None:
    for block in toml_blocks(PAGES[name]):
        (tmp_path / "model.toml").write_text(block if "task = " in block else f'task = "tensor"\n{block}')
        assert isinstance(read_spec(tmp_path), ModelSpec)


@pytest.mark.parametrize("name", PAGES)
def test_each_python_block_is_valid_python(name: str) -> None:
    """Programs that need a converter, PyTorch and the like are only parsed: these are not installed for the tests."""
    for block in re.findall(r"```python\n(.+?)```", PAGES[name], re.DOTALL):
        ast.parse(block)


def test_the_five_lines_serve_a_model(tmp_path: Path) -> None:
    (script, shown) = re.findall(
        r"```sh\n(.+?)```\n```json\n(.+?)```",
        section(PAGES["serve-a-model"], "## Your ONNX file in five lines"),
        re.DOTALL,
    )[0]
    lay_out, curl = re.split(r"(?m)^(?=curl)", script)
    shutil.copy(models.doubling(tmp_path / "made") / "1" / "model.onnx", tmp_path / "mine.onnx")
    shutil.copytree(ROOT / "models" / "digits", tmp_path / "models" / "digits")
    with Service(tmp_path / "models", {"JITNEY_MODELS_POLL_S": "0.2"}) as service:
        subprocess.run(["bash", "-ec", lay_out], cwd=tmp_path, check=True)
        wait_until(lambda: service.http.get("/readyz/models/mine").status_code == 200, "the model is served", 20)
        command = curl.replace("http://localhost:8000", service.url)
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["output"] == json.loads(shown)["output"]


def test_the_example_of_bf16_works(documented: Service) -> None:
    (script, shown) = re.findall(r"## Datatypes.+?```sh\n(.+?)```\n```json\n(.+?)```", REFERENCE, re.DOTALL)[0]
    command = script.replace("http://localhost:8000", documented.url)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["output"] == json.loads(shown)["output"]


def test_the_example_of_a_custom_task_works(documented: Service) -> None:
    for digit in (DIGITS[0], DIGITS[-1]):
        files = {"image": (digit.name, digit.read_bytes())}
        answer = documented.http.post("/predict", files=files, data={"model": "parity"}).json()
        assert answer["predictions"][0]["label"] == ("even" if int(digit.name[0]) % 2 == 0 else "odd")


def test_the_examples_of_tasks_with_inputs_of_their_own_work(documented: Service) -> None:
    def ask(model: str, job_input: object) -> Any:
        job = {"model": model, "input": job_input}
        return documented.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()

    assert ask("basket", {"json": {"tea": 2.5, "milk": 1}})["output"] == {"tea": 5, "milk": 2}
    assert ask("basket", {"json": [1]})["error"]["message"] == "send an object of at most 4 prices"
    samples = np.array([1, -1, 2, 2, -3, 3, 4, 4], "<i2").tobytes()
    assert ask("loudness", {"bytes": base64.b64encode(samples).decode()})["output"] == {"loudness": [2, 4, 6, 8]}
    raw = documented.submit(samples + samples, "application/octet-stream", wait=10, model="loudness").json()
    assert raw["output"] == {"loudness": [3, 7, 3, 7]}
    assert ask("loudness", {"bytes": "AAA="})["error"]["code"] == "invalid_input"
    assert ask("loudness", {"json": 1})["status"] == 422


def test_every_member_of_a_task_is_documented() -> None:
    members = {name for name in {*vars(Task), *Task.__annotations__} if not name.startswith("_")}
    assert members >= {"kinds", "padding", "postprocess"}
    shown = set(re.findall(r"`(\w+)(?:\([\w, ]*\))?`", PAGES["custom-tasks"]))
    assert members - shown == set()


def test_the_example_of_squeezenet_is_the_tested_one() -> None:
    (toml,) = toml_blocks(section(PAGES["image-models"], "### SqueezeNet"))
    assert toml.strip() == models.SQUEEZENET_TOML.strip()


def test_the_example_of_a_detector_fits_the_output_of_yolov8(tmp_path: Path) -> None:
    _, toml = toml_blocks(section(PAGES["image-models"], "## Detection"))
    (tmp_path / "model.toml").write_text(toml)
    (tmp_path / "labels.txt").write_text("\n".join(f"thing {number}" for number in range(80)))
    given = [TensorSpec("output0", "FP32", (84, 8400))]
    task = load_task(read_spec(tmp_path), tmp_path, [TensorSpec("images", "FP32", (3, 640, 640))], given)
    found = np.zeros((84, 8400), np.float32)
    found[:4, 5], found[4 + 7, 5] = [320, 320, 64, 32], 0.5
    told = task.postprocess({"output0": found}, {".size": (1280, 960)})["detections"]
    assert [(one["label"], one["score"], one["box"]) for one in told] == [
        ("thing 7", 0.5, {"x": 576.0, "y": 448.0, "width": 128.0, "height": 64.0})
    ]


def test_the_example_of_a_segmentation_fits_the_output_of_segformer(tmp_path: Path) -> None:
    part = section(PAGES["image-models"], "## Segmentation")
    (tmp_path / "model.toml").write_text(toml_blocks(part)[0])
    (tmp_path / "labels.txt").write_text("\n".join(f"thing {number}" for number in range(150)))
    given = [TensorSpec("logits", "FP32", (150, 128, 128))]
    task = load_task(read_spec(tmp_path), tmp_path, [TensorSpec("pixels", "FP32", (3, 512, 512))], given)
    scores = np.zeros((150, 128, 128), np.float32)
    scores[7, :, :64] = scores[9, :, 64:] = 1
    output = orjson.loads(
        b"".join(encode_output(task.postprocess({"logits": scores}, {".size": (640, 480)}), 9999, 9999))
    )
    (snippet,) = re.findall(r"`(numpy\.asarray\(.+?)`", part)
    mask = eval(snippet, {"numpy": np, "PIL": PIL, "io": io, "base64": base64, "output": output})  # noqa: S307
    assert (mask[:, :320] == 7).all()
    assert (mask[:, 320:] == 9).all()
    (example,) = re.findall(r"```json\n(.+?)```", part, re.DOTALL)
    assert json.loads(example)["output"].keys() == output.keys()
    assert json.loads(example)["output"]["classes"][0].keys() == output["classes"][0].keys()


def test_the_example_of_a_text_fits_a_model_with_a_tokenizer(tmp_path: Path) -> None:
    (toml,) = toml_blocks(PAGES["text-models"])
    folder, inputs = text.encoder(tmp_path, toml=toml), ("input_ids", "attention_mask")
    output = TensorSpec("y", "FP32", (-1, 4))
    task = load_task(read_spec(folder), folder, [TensorSpec(name, "INT64", (-1,)) for name in inputs], [output])
    parameters = {"prompt": "query"}
    arrays = task.preprocess("text", b"red", parameters)
    assert arrays["input_ids"].tolist() == text.ids_of("query", ":", "red")
    vectors = np.array([[3, 4, 0, 0]] * 5, np.float32)
    answer = task.postprocess({"y": vectors}, parameters)
    assert [*map(float, answer.pop("embedding"))] == pytest.approx([0.6, 0.8, 0, 0])
    assert answer == {"dimensions": 4, "tokens": 5, "truncated": False}


def test_the_examples_of_audio_work(documented: Service, tmp_path: Path) -> None:
    block, shown = re.findall(r"```sh\n(.+?)```\n```json\n(.+?)```", PAGES["audio-models"], re.DOTALL)[0]
    api = (DOCS / "reference" / "http-api.md").read_text()
    (of_api,) = re.findall(r"```sh\n(curl -H 'Content-Type: audio.+?)```", api, re.DOTALL)
    assert block.startswith(of_api)
    (tmp_path / "bell.wav").write_bytes(audio.encode(audio.sine(440, 2.5)))
    script = block.replace("http://localhost:8000", documented.url).replace("curl ", "curl -sS -w '\\n' ")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    raw, form, encoded = (json.loads(answer) for answer in done.stdout.splitlines())
    expected = json.loads(shown)["output"]
    for each in expected["predictions"]:
        each["probability"] = pytest.approx(each["probability"], abs=1e-5)
    assert raw["output"] == expected
    assert documented.final(form["id"])["output"] == raw["output"]
    assert documented.final(encoded["id"])["output"]["predictions"] == raw["output"]["predictions"][:1]


def test_the_example_of_an_audio_embedding_is_an_answer_of_the_task(tmp_path: Path) -> None:
    (shown,) = re.findall(r'```json\n({[^\n]+"embedding": \[0.6, 0.8\][^\n]+)', PAGES["audio-models"])
    (tmp_path / "model.toml").write_text('task = "audio-embedding"\n[audio]\nsample_rate = 16000')
    outputs = [TensorSpec("y", "FP32", (2,))]
    task = load_task(read_spec(tmp_path), tmp_path, [TensorSpec("x", "FP32", (-1,))], outputs)
    parameters: dict[str, Any] = {}
    task.preprocess("audio", audio.encode(audio.sine(440, 2.5)), parameters)
    answer = task.postprocess({"y": np.array([3, 4], np.float32)}, parameters)
    assert answer | {"embedding": [*map(float, answer["embedding"])]} == json.loads(shown)["output"] | {
        "embedding": pytest.approx([0.6, 0.8])
    }


def test_the_documented_rollout_commands_work(tmp_path: Path) -> None:
    (block,) = re.findall(r"```sh\n(jitney models promote.+?)```", PAGES["rollouts"], re.DOTALL)
    shutil.copytree(ROOT / "models" / "digits", tmp_path / "models" / "digits")
    shutil.copytree(ROOT / "models" / "digits" / "1", tmp_path / "incoming" / "2")
    with Service(tmp_path / "models", {"JITNEY_MODELS_POLL_S": "0.2"}) as service:
        env = {**os.environ, "JITNEY_URL": service.url}
        for line in block.replace("jitney ", f"{sys.executable} -m cli.main ").splitlines():
            here = line.replace("mv incoming/2 models", f"mv {tmp_path}/incoming/2 {tmp_path}/models")

            def does(command: str = here) -> bool:
                """A version must be found in the folder and loaded before it can be used."""
                return subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, check=False).returncode == 0

            wait_until(does, line, 20)
        found = service.http.get("/v1/models/digits").json()
        assert found["plan"]["pinned"] is False
