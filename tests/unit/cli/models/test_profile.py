"""`jitney models profile` measures and stores; a worker on the same device uses the stored profile."""

import json
import stat
from pathlib import Path

import pytest

from cli import main
from model_runtime.model import load_model
from model_runtime.profiling import profile_store
from model_runtime.profiling.profile_store import Latency, StoredProfile
from model_runtime.repository.repository import ModelFolder, list_models
from tests.support import models
from tests.support.model_files.graphs import node, numbers, write

Said = pytest.CaptureFixture[str]


def profile(*args: object) -> int:
    return main.main(["models", "profile", *map(str, args), "--provider", "cpu", "--seconds", "0.05"])


def card(models_dir: Path) -> dict[str, object]:
    (found,) = list_models(models_dir)
    assert isinstance(found, ModelFolder)
    return load_model(found).card()


def test_latencies_are_printed_and_kept_for_workers(tmp_path: Path, capsys: Said) -> None:
    models.doubling(tmp_path)
    assert profile(tmp_path, "--largest", "8") == 0
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines()[2:6]] == ["1", "2", "4", "8"]
    kept = json.loads((tmp_path / "double" / "1" / "profile.json").read_text())
    sizes = kept["profiles"][0]["sizes"]
    assert list(sizes) == ["1", "2", "4", "8"]
    assert all(0 < one["p50_ms"] <= one["p99_ms"] and one["runs"] >= 5 for one in sizes.values())
    seen = card(tmp_path)
    assert seen["profiles"] == kept["profiles"]
    assert seen["max_batch"] == kept["profiles"][0]["cap"] <= 8
    assert seen["run_ms"] == {size: one["p50_ms"] for size, one in sizes.items()}
    assert [one.name for one in (tmp_path / "double" / "1").iterdir() if one.name.startswith(".")] == []


def test_each_device_has_its_own_profile_and_a_new_one_replaces_it(tmp_path: Path) -> None:
    onnx = models.doubling(tmp_path) / "1" / "model.onnx"
    other = StoredProfile("cuda", "A GPU", "1.31.1", "2026-01-01T00:00:00Z", 32, {1: Latency(1, 2, 3, 9)})
    profile_store.write_profile(onnx, other)
    for _ in range(2):
        assert profile(tmp_path) == 0
    found = profile_store.read_profiles(onnx)
    assert [one.provider for one in found] == ["cuda", "cpu"]
    assert found[0] == other
    assert len(card(tmp_path)["profiles"]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["model", "device", "runtime"])
def test_a_profile_of_another_model_file_is_ignored(change: str, tmp_path: Path) -> None:
    folder = models.doubling(tmp_path)
    assert profile(tmp_path, "--largest", "2") == 0
    kept = folder / "1" / "profile.json"
    written = json.loads(kept.read_text())
    written["profiles"][0]["cap"] = 33
    if change == "model":
        written["model"] = "0" * 64
    else:
        written["profiles"][0][change] = "another"
    kept.write_text(json.dumps(written))
    assert card(tmp_path)["max_batch"] in {2**power for power in range(10)}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 1, "profiles": [{}]}', '{"profiles": null}', "\xff"])
def test_a_broken_profile_is_reported_and_measured_again(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (models.doubling(tmp_path) / "1" / "profile.json").write_text(text, encoding="latin-1")
    assert card(tmp_path)["batchable"] is True
    assert "ignoring the stored profile, measuring again: " in caplog.text
    assert profile(tmp_path) == 0, "and is written over"
    assert len(card(tmp_path)["profiles"]) == 1  # type: ignore[arg-type]


def test_a_cap_set_by_the_operator_wins_over_the_profile(tmp_path: Path) -> None:
    models.doubling(tmp_path, toml='task = "tensor"\nmax_batch = 5\nbuckets = [2, 5]')
    assert profile(tmp_path, "--largest", "4") == 0
    found = card(tmp_path)
    assert (found["max_batch"], found["buckets"]) == (5, [2, 5])
    assert list(found["run_ms"]) == ["1", "2", "4", "5"]  # type: ignore[call-overload]


def test_an_unwritable_folder_is_reported(tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = models.doubling(tmp_path) / "1"
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)

    def refuse(*_: object, **__: object) -> None:  # to the superuser every folder is open
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("model_runtime.profiling.profile_store.tempfile.mkstemp", refuse)
    assert profile(tmp_path) == 1
    assert "cannot store the profile: Permission denied; allowed: a writable folder, or --no-keep" in (
        capsys.readouterr().err
    )
    assert profile(tmp_path, "--no-keep") == 0


def test_open_shapes_and_files_alone(tmp_path: Path, capsys: Said) -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, {"x": ["N", "S"]}, {"y": ["N", 2]}, {"w": numbers(4, 2)})
    assert profile(path) == 1
    assert "cannot be measured: a row has open dimensions: 'x' [-1]" in capsys.readouterr().err
    alone = models.doubling(tmp_path / "models") / "1" / "model.onnx"
    lonely = tmp_path / "lonely.onnx"
    lonely.write_bytes(alone.read_bytes())
    assert profile(lonely) == 0
    assert "not stored" in capsys.readouterr().out
