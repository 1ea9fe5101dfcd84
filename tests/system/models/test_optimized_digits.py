"""The bundled digits in int8, in fp16 and with preprocessing in the graph: added, served, and correct."""

import json
import shutil
from pathlib import Path

import onnx
import pytest

from model_runtime.model import load_model
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.spec.model_toml import read_spec
from tests.support.model_files.optimize import SAMPLES, Optimize, everything
from tests.support.service import DIGITS, ROOT, Service
from worker.versions.folder_snapshot import take_snapshot

QUICK = ("--seconds", "0.1", "--min-gain", "0")  # as fast as it happens to be on a machine that is busy


def test_int8_is_a_new_version_with_a_record_and_nothing_else(models_dir: Path, optimize: Optimize) -> None:
    before = everything(models_dir)
    code, said = optimize("--int8", "--calibrate", SAMPLES, *QUICK)
    assert (code, said["version"], said["reason"]) == (0, "2", "")
    added = everything(models_dir).keys() - before.keys()
    assert added == {"digits/2/model.onnx", "digits/2/optimized.json"}
    assert {name: text for name, text in everything(models_dir).items() if name in before} == before
    assert said["bytes_new"] < 0.4 * said["bytes_old"]
    assert said["agreement"]["share"] >= 0.95
    assert said["agreement"]["what"] == f"25 of the 50 images of {SAMPLES}"
    assert said["calibrated_with"] == said["agreement"]["what"]
    assert sorted(said["latency_ms"], key=int) == ["1", "2", "4", "8", "16"]
    assert all(times["new"]["min_ms"] <= times["new"]["p50_ms"] for times in said["latency_ms"].values())
    assert any("in int8: Conv 3" in note for note in said["notes"])
    record = json.loads((models_dir / "digits" / "2" / "optimized.json").read_text())
    assert (record["made_from"], record["what"]) == ("1", "int8, simplified")


def test_int8_weights_have_a_scale_for_each_channel(models_dir: Path, optimize: Optimize) -> None:
    optimize("--int8", "--calibrate", SAMPLES, "--no-measure")
    graph = onnx.load(models_dir / "digits" / "2" / "model.onnx").graph
    scales = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in scales]
    assert any(scales[node.input[1]].size > 1 for node in weights)


def test_fp16_keeps_input_and_output_types_and_halves_the_file(models_dir: Path, optimize: Optimize) -> None:
    code, said = optimize("--fp16", "--validate", SAMPLES, *QUICK)
    assert code == 0
    assert said["bytes_new"] < 0.6 * said["bytes_old"]
    assert (said["agreement"]["share"], said["agreement"]["rows"]) == (1.0, 50)
    assert said["agreement"]["drift"] < 0.01
    graph = onnx.load(models_dir / "digits" / "2" / "model.onnx").graph
    ends = [port.type.tensor_type.elem_type for port in (*graph.input, *graph.output)]
    assert ends == [onnx.TensorProto.FLOAT] * 2


def test_a_folded_version_has_its_own_model_toml(models_dir: Path, optimize: Optimize) -> None:
    code, said = optimize("--fold", "--no-measure")
    assert code == 0
    assert said["agreement"]["drift"] < 1e-4
    [found] = list_models(models_dir)
    assert isinstance(found, ModelFolder)
    model = load_model(found)
    assert (model.version, [(port.datatype, port.shape) for port in model.inputs]) == ("2", [("UINT8", (28, 28, 1))])
    assert not read_spec(found.path, "2").image.is_normalising
    assert read_spec(found.path).image.is_normalising
    before = load_model(
        take_snapshot(models_dir, []).models["digits"].folder("1")
    )  # as a canary's neighbour, or on the way back
    assert [(port.datatype, port.shape) for port in before.inputs] == [("FP32", (1, 28, 28))]


def test_the_model_toml_of_a_version_is_inherited_by_the_next(models_dir: Path, optimize: Optimize) -> None:
    optimize("--fold", "--no-measure")
    code, said = optimize("--int8", "--calibrate", SAMPLES, "--no-measure")
    assert (code, said["made_from"], said["version"]) == (0, "2", "3")
    own = [(models_dir / "digits" / version / "model.toml").read_text() for version in ("2", "3")]
    assert own[0] == own[1]


def test_simplifying_does_not_enlarge_an_fp16_version(optimize: Optimize) -> None:
    optimize("--fp16", "--no-measure")
    code, said = optimize("--fold", "--no-measure")
    assert code == 0
    assert said["bytes_new"] < 1.1 * said["bytes_old"]
    assert any("not simplified: it is FP16" in note for note in said["notes"])


def test_a_dry_run_reports_and_writes_nothing(models_dir: Path, optimize: Optimize) -> None:
    before = everything(models_dir)
    code, said = optimize("--fp16", "--no-write", *QUICK)
    assert (code, said["written"], said["version"]) == (0, "", "")
    assert said["rows_per_s"]["new"] > 0
    assert everything(models_dir) == before


def test_optimized_versions_are_served_and_answer_correctly(models_dir: Path, optimize: Optimize) -> None:
    shutil.copytree(models_dir / "digits", models_dir / "halved")
    assert optimize("--int8", "--fold", "--calibrate", SAMPLES, "--no-measure")[0] == 0
    assert optimize("--fp16", "--no-measure", name="halved")[0] == 0
    with Service(models_dir) as service:
        cards = {card["name"]: card for card in service.http.get("/v1/models").json()["models"]}
        assert {name: (card["version"], card["checked"]) for name, card in cards.items()} == {
            "digits": ("2", True),
            "halved": ("2", True),
        }
        for model in cards:
            jobs = [service.submit(path.read_bytes(), "image/png", wait=20, model=model).json() for path in DIGITS]
            labels = [job["output"]["predictions"][0]["label"] for job in jobs]
            right = sum(label == path.name[0] for label, path in zip(labels, DIGITS, strict=True))
            assert right >= len(DIGITS) - 1, (model, labels)
            assert {job["version"] for job in jobs} == {"2"}


@pytest.mark.parametrize("place", ["digits", "digits/1"])
def test_a_path_and_a_name_give_the_same_result(
    models_dir: Path, optimize: Optimize, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(ROOT)
    code, said = optimize("--no-measure", name=str(models_dir / place))
    assert (code, said["model"], said["made_from"], said["version"]) == (0, "digits", "1", "2")
