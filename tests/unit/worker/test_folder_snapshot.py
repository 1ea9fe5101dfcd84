"""The snapshot of a models folder: its versions, and whether one has changed."""

from pathlib import Path

import pytest

from model_runtime.spec.model_toml import ModelError
from tests.support import models
from worker.versions import folder_snapshot
from worker.versions.folder_snapshot import check_models_dir, take_snapshot


def fingerprints(folder: Path) -> dict[str, str]:
    return dict(take_snapshot(folder, []).models["times"].fingerprints)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for version in (1, 2, 10):
        models.times(tmp_path, version)
    return tmp_path


def test_versions_are_in_order_and_the_highest_is_best(folder: Path) -> None:
    found = take_snapshot(folder, []).models["times"]
    assert [*found.fingerprints] == ["1", "2", "10"]
    assert (found.best([]), found.best(["10"]), found.best(["1", "2", "10"])) == (["10", "2", "1"], ["2", "1"], ["10"])
    assert found.folder("2").onnx == folder / "times" / "2" / "model.onnx"


def test_the_version_pinned_in_model_toml_is_best_unless_it_was_rolled_back(folder: Path) -> None:
    (folder / "times" / "model.toml").write_text('task = "tensor"\nversion = "2"')
    found = take_snapshot(folder, []).models["times"]
    assert (found.best([]), found.best(["2"])) == (["2"], ["10", "1"])


@pytest.mark.parametrize(
    ("file", "text", "changed"),
    [
        ("model.toml", '# a comment\ntask = "tensor"', set()),
        ("model.toml", 'task = "tensor"\nversion = "1"', set()),
        ("model.toml", 'task = "tensor"\nmax_batch = 3', {"1", "2", "10"}),
        ("labels.txt", "one\ntwo", {"1", "2", "10"}),
        ("2/model.onnx", "xx", {"2"}),
        ("2/model.toml", "max_batch = 3", {"2"}),
        ("2/model.onnx.data", "xx", {"2"}),
        ("1_Pooling/config.json", "{}", {"1", "2", "10"}),
        ("2/profile.json", "{}", set()),
        ("2/.nfs0001", "xx", set()),
        (".hidden", "xx", set()),
    ],
)
def test_a_version_has_changed_when_one_of_its_files_has(folder: Path, file: str, text: str, changed: set[str]) -> None:
    before = fingerprints(folder)
    (folder / "times" / file).parent.mkdir(exist_ok=True)
    (folder / "times" / file).write_text(text)
    after = fingerprints(folder)
    assert {version for version in before if before[version] != after[version]} == changed


def test_broken_and_absent_models_are_told_apart(folder: Path) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "model.toml").write_text("task = 3")
    found = take_snapshot(folder, ["broken", "absent", "times"])
    assert (set(found.models), set(found.broken)) == ({"times"}, {"broken", "absent"})
    assert found.absent == frozenset({"absent"})


def test_a_folder_with_nothing_to_serve_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no models in"):
        check_models_dir(tmp_path, [])
    with pytest.raises(ModelError, match="cannot be read"):
        check_models_dir(tmp_path / "nowhere", [])


def test_a_folder_that_is_unmounted_while_it_is_read_is_an_error_of_the_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its models must not look removed: workers would stop to serve them."""

    def unmount(*_: object) -> list[str]:
        folder.rename(folder.with_name("hidden"))
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(folder_snapshot, "list_versions", unmount)
    with pytest.raises(ModelError, match="the models directory cannot be read"):
        take_snapshot(folder, [])
