"""The versions that a worker should run, from folder, plan and the loaded ones."""

from pathlib import Path

import pytest

from jobs.models.rollout_plan import FOLLOW_FOLDER, RolloutPlan
from model_runtime.repository.repository import ModelFolder
from model_runtime.spec.model_toml import ModelSpec
from worker.versions.desired_versions import desired_versions_of
from worker.versions.folder_snapshot import ModelVersions


def model_versions(*versions: str, pins: str | None = None) -> ModelVersions:
    spec = ModelSpec(task="tensor", version=pins)
    choice = ModelFolder("m", Path("m"), pins or versions[-1], Path("m"), spec)
    return ModelVersions(choice, {one: f"files of {one}" for one in versions})


@pytest.mark.parametrize(
    ("folder", "plan", "running", "choice", "broken", "expected"),
    [
        pytest.param(model_versions("1", "2"), FOLLOW_FOLDER, "", "", "", ("", {"2"}), id="at the start: the highest"),
        pytest.param(
            model_versions("1", "2", pins="1"), FOLLOW_FOLDER, "", "", "", ("", {"1"}), id="or what model.toml pins"
        ),
        pytest.param(
            model_versions("1", "2"), FOLLOW_FOLDER, "1", "1", "", ("1", {"1", "2"}), id="the old until the new runs"
        ),
        pytest.param(model_versions("1", "2"), FOLLOW_FOLDER, "12", "1", "", ("2", {"2"}), id="then the new alone"),
        pytest.param(model_versions("1", "2"), FOLLOW_FOLDER, "1", "1", "2", ("1", {"1"}), id="the new one is broken"),
        pytest.param(model_versions("1", "2"), FOLLOW_FOLDER, "", "", "2", ("", {"1"}), id="at the start too"),
        pytest.param(
            model_versions("1", "2"), RolloutPlan("2", before="1"), "12", "2", "", ("2", {"1", "2"}), id="the way back"
        ),
        pytest.param(
            model_versions("1", "2"), RolloutPlan("1", bad={"2": "x"}), "12", "2", "", ("1", {"1"}), id="taken back"
        ),
        pytest.param(
            model_versions("1", "2"), RolloutPlan("1", True, "2", 9), "1", "1", "", ("1", {"1", "2"}), id="a canary"
        ),
        pytest.param(
            model_versions("1", "2"), RolloutPlan("1", True, kept=["2"]), "1", "1", "", ("1", {"1", "2"}), id="kept"
        ),
        pytest.param(
            model_versions("1", "2"), RolloutPlan("1", unloaded=True), "12", "1", "", ("", set()), id="unloaded"
        ),
        pytest.param(
            model_versions("3"), RolloutPlan("1", True), "", "", "", ("", {"1", "3"}), id="pinned, in another's folder"
        ),
        pytest.param(model_versions("1"), FOLLOW_FOLDER, "12", "2", "", ("1", {"1"}), id="removed: the one below"),
        pytest.param(
            model_versions("1"), FOLLOW_FOLDER, "2", "2", "", ("2", {"1", "2"}), id="removed, until that one runs"
        ),
        pytest.param(None, FOLLOW_FOLDER, "1", "1", "", ("", set()), id="all of it removed"),
        pytest.param(None, RolloutPlan("1", True), "1", "1", "", ("1", {"1"}), id="removed, but pinned"),
    ],
)
def test_desired_versions(
    *,
    folder: ModelVersions | None,
    plan: RolloutPlan,
    running: str,
    choice: str,
    broken: str,
    expected: tuple[str, set[str]],
) -> None:
    there = folder.fingerprints if folder else {}
    wish = desired_versions_of(folder, plan, list(running), choice, lambda one: one in there and one not in broken)
    assert (wish.choice, wish.versions) == expected
