"""The pages docs/how-to/migrate-from-*.md: the code before and after, executed as it stands, gives the same answers."""

import ast
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.how_to import Page, prepare_folder, run, run_python, run_shell
from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until

FLASK, CELERY, TRITON = (Page(f"migrate-from-{name}.md") for name in ("flask", "celery", "triton"))
PROTOCOL = Page("open-inference-protocol.md")
ASK_FLASK = """
from app import app
answer = app.test_client().post("/predict", data={"image": open("samples/digits/7_01.png", "rb")})
print(answer.get_data(as_text=True))
assert app.test_client().post("/predict").get_json() == {"success": False}
"""
ASK_CELERY = """
import base64
from tasks import app, predict
app.conf.task_always_eager = True
with open("samples/digits/7_01.png", "rb") as image:
    print(predict.delay(base64.b64encode(image.read()).decode()).get()["label"])
"""
ASK_SHOP = """
from shop import app
with open("samples/digits/7_01.png", "rb") as image:
    answer = app.test_client().post("/orders/17/photo", data=image.read(), content_type="image/png")
print(answer.get_data(as_text=True))
"""


def toml(page: Page, name: str) -> str:
    block = page.blocks("toml")[0]
    assert block.startswith(f"# models/{name}/model.toml\n")
    return block


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models of the pages; the model of Celery's page is named tasks."""
    folder = prepare_folder(tmp_path_factory.mktemp("migrations"))
    for name, page in (("digits", FLASK), ("tasks", CELERY)):
        shutil.copytree(ROOT / "models" / "digits", folder / "models" / name)
        (folder / "models" / name / "model.toml").write_text(toml(page, "digits"))
    models.doubling(folder / "models", "double", toml(TRITON, "double"))
    return folder


@pytest.fixture(scope="module")
def moved(folder: Path) -> Iterator[Service]:
    with Service(folder / "models") as service:
        wait_until(lambda: len(service.http.get("/readyz").json()["models"]) == 3, "all models are served")
        yield service


def test_flask(moved: Service, folder: Path) -> None:
    (folder / "app.py").write_text(FLASK.block("python", "# app.py"))
    before = json.loads(run([sys.executable, "-c", ASK_FLASK], folder))
    check, up = FLASK.blocks("sh")[0].splitlines()
    assert up == "jitney up"
    assert "digits" in run_shell(check, moved.url, folder)
    code = FLASK.block("python", "# client.py").replace("files=", 'data={"model": "digits"}, files=')
    code += '\nimport json; print(json.dumps(answer["predictions"]))'
    label, after = run_python(code, moved.url, folder).splitlines()
    assert label == "7" == before["predictions"][0]["label"]
    assert [one["label"] for one in json.loads(after)] == [one["label"] for one in before["predictions"]]
    for mine, theirs in zip(json.loads(after), before["predictions"], strict=True):
        assert mine["probability"] == pytest.approx(theirs["probability"], abs=1e-5)


def test_flask_that_stays(moved: Service, folder: Path) -> None:
    url = FLASK.block("python", "# shop.py").replace("http://127.0.0.1:8000", moved.url)
    (folder / "shop.py").write_text(url)
    answer = json.loads(run([sys.executable, "-c", ASK_SHOP], folder))
    assert (answer["order"], answer["status"], answer["output"]["predictions"][0]["label"]) == ("17", "succeeded", "7")


def test_celery(moved: Service, folder: Path) -> None:
    tasks, caller, after = CELERY.blocks("python")
    ast.parse(caller)
    code = after.replace("model=digits", "model=tasks")
    job, label = run_python(code, moved.url, folder).split()
    assert (len(job), label) == (34, "7")
    ast.parse(tasks)
    if importlib.util.find_spec("celery"):
        (folder / "tasks.py").write_text(tasks)
        assert run([sys.executable, "-c", ASK_CELERY], folder) == "7\n"


def test_the_open_inference_protocol(moved: Service, folder: Path) -> None:
    (code,) = PROTOCOL.blocks("python")
    ast.parse(code)
    described, infer, submit = [
        *PROTOCOL.blocks("sh")[0].split("curl ")[1:],
        *PROTOCOL.blocks("sh")[1].split("curl ")[1:],
    ]
    assert json.loads(run_shell(f"curl {described}", moved.url, folder))["inputs"][0]["shape"] == [-1, 4]
    assert json.loads(run_shell(f"curl {infer}", moved.url, folder))["outputs"][0]["data"] == [
        2,
        4,
        6,
        8,
        10,
        12,
        14,
        16,
    ]
    assert json.loads(run_shell(f"curl {submit}", moved.url, folder))["status"] == "queued"


def test_triton(moved: Service, folder: Path) -> None:
    before, after = TRITON.blocks("python")
    ast.parse(before)
    for line in TRITON.blocks("sh")[0].splitlines():
        assert "double" in run_shell(line, moved.url, folder)
    assert run_python(after, moved.url, folder) == "[[2.0, 4.0, 6.0, 8.0], [10.0, 12.0, 14.0, 16.0]]\n"
