"""The page docs/how-to/embeddings.md, executed as it stands with a small model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.model_files import text
from tests.support.service import ROOT, Service

PAGE = (ROOT / "docs" / "how-to" / "embeddings.md").read_text()


def blocks(kind: str) -> list[str]:
    return [
        text for found, text in re.findall(r"^```(\w*)\n(.+?)^```", PAGE, re.DOTALL | re.MULTILINE) if found == kind
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Hugging Face under the documented name, and beside it the imported model."""
    folder = tmp_path_factory.mktemp("how-to")
    laid_out = text.encoder(folder / "made", "minilm")
    source = folder / "all-MiniLM-L6-v2"
    (source / "onnx").mkdir(parents=True)
    (source / "onnx" / "model.onnx").write_bytes((laid_out / "1" / "model.onnx").read_bytes())
    (source / "tokenizer.json").write_bytes((laid_out / "tokenizer.json").read_bytes())
    (source / "config.json").write_text(json.dumps({"architectures": ["BertModel"], "max_position_embeddings": 64}))
    modules = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    types = [{"type": f"sentence_transformers.models.{name}", "path": path} for name, path in modules.items()]
    (source / "modules.json").write_text(json.dumps(types))
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (command,) = [block for block in blocks("sh") if block.startswith("jitney models import ./all-")]
    command = command.replace("jitney", f"{sys.executable} -m cli.main", 1)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (printed,) = [block for block in blocks("") if "imported" in block]
    assert done.stdout == printed
    return folder


def test_the_commands_of_the_page_work(folder: Path) -> None:
    with Service(folder / "models") as service:

        def run(*words: str) -> str:
            adapted = [word.replace("http://127.0.0.1:8000", service.url) for word in words]
            done = subprocess.run(adapted, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        (curl,) = [block for block in blocks("sh") if "/v1/embeddings" in block]
        answer = json.loads(run("bash", "-c", curl))
        (documented,) = map(json.loads, blocks("json"))
        assert answer.keys() == documented.keys()
        assert [each.keys() for each in answer["data"]] == [each.keys() for each in documented["data"]]
        create, batch = blocks("python")
        assert run(sys.executable, "-c", create) == f"2 {answer['usage']['total_tokens']}\n"
        assert run(sys.executable, "-c", batch) == "completed 1000 1\n"


def test_the_settings_are_keys_of_model_toml() -> None:
    named = re.findall(r"^\| `(?:\[text\] )?(\w+)` \|", PAGE, re.MULTILINE)
    models = (ROOT / "docs" / "reference" / "model-toml.md").read_text()
    assert len(named) == 6
    assert [name for name in named if f"| `{name}` |" not in models] == []
