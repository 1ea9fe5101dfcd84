"""The digest of a model version: equal for equal files, different where an answer could differ."""

import os
import shutil
from pathlib import Path

import pytest

from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.repository.version_digest import compute_digest
from tests.support import models

PINNED = 'task = "tensor"\nversion = "1"\n# a comment\nthreads = 3\nmax_batch = 7\nmax_wait_ms = 5.0\nprovider = "cpu"'


def digest(folder: Path) -> str:
    (found,) = list_models(folder)
    assert isinstance(found, ModelFolder)
    return compute_digest(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models.doubling(tmp_path / "a", "m")
    return tmp_path / "a"


def test_a_copy_elsewhere_with_other_times_has_the_same_digest(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "b")
    os.utime(tmp_path / "b" / "m" / "1" / "model.onnx", (1, 1))
    assert digest(folder) == digest(tmp_path / "b")
    assert len(digest(folder)) == 16


@pytest.mark.parametrize(
    ("file", "text", "differs"),
    [
        ("1/model.onnx", "xx", True),
        ("1/weights.data", "xx", True),
        ("1/deep/weights.data", "xx", True),
        ("1/model.toml", 'description = "other"', True),
        ("model.toml", 'task = "tensor"\n[retry]\nattempts = 1', True),
        ("model.toml", 'task = "image-classification"\n[classification]\nlabels = "labels.txt"', True),
        # how one machine runs it, and what says nothing of its answers
        ("model.toml", PINNED, False),
        ("1/profile.json", "{}", False),
        ("README.md", "xx", False),
        ("labels.txt", "not named in model.toml", False),
        (".hidden", "xx", False),
    ],
)
def test_the_digest_covers_these_files(folder: Path, file: str, text: str, differs: bool) -> None:
    before = digest(folder)
    (folder / "m" / file).parent.mkdir(exist_ok=True)
    (folder / "m" / file).write_text(text)
    assert (digest(folder) != before) is differs


@pytest.mark.parametrize("file", ["mine.py", "vocabulary.txt"])
def test_a_custom_task_counts_with_all_files_that_it_may_read(folder: Path, file: str) -> None:
    (folder / "m" / "model.toml").write_text('task = "mine.py:Mine"')
    (folder / "m" / file).write_text("one")
    before = digest(folder)
    (folder / "m" / file).write_text("two")
    assert digest(folder) != before


def test_named_label_files_count(folder: Path) -> None:
    (folder / "m" / "model.toml").write_text('task = "object-detection"\n[detection]\nlabels = "names.txt"')
    (folder / "m" / "names.txt").write_text("one")
    before = digest(folder)
    (folder / "m" / "names.txt").write_text("two")
    assert digest(folder) != before


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "1_Pooling/config.json", "modules.json"])
def test_a_model_for_text_counts_with_its_tokenizer_and_configuration(folder: Path, file: str) -> None:
    (folder / "m" / file).parent.mkdir(exist_ok=True)
    (folder / "m" / file).write_text("{}")
    of_tensors = digest(folder)
    (folder / "m" / "model.toml").write_text('task = "text-embedding"')
    before = digest(folder)
    (folder / "m" / file).write_text("{ }")
    assert digest(folder) != before
    (folder / "m" / "model.toml").write_text('task = "tensor"')
    assert digest(folder) == of_tensors
