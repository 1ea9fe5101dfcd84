"""What counts as the same answer: detectors by their detections, embeddings by their angle, not by raw outputs."""

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from cli.models.optimizing.evaluation import agreement
from cli.models.optimizing.evaluation.agreement import Agreement
from cli.models.optimizing.evaluation.calibration_data import Examples
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion, open_version
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.tasks.examples import Example
from tests.support import models
from tests.support.model_files import segmentation
from tests.support.model_files.graphs import node, numbers, write

FINDER = 'task = "object-detection"\nprovider = "cpu"\n[image]\nscale = 0.00392156862745098\n'
FINDER += '[detection]\nlabels = "labels.txt"\n'


def picture(*colours: tuple[int, int, int]) -> Example:
    """A black picture of 96 x 64 with a square for each colour."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    for at, colour in enumerate(colours):
        pixels[8:40, 8 + 40 * at : 40 + 40 * at] = colour
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return Example("image", file.getvalue())


RED, GREEN = (255, 0, 0), (0, 255, 0)


def changed(path: Path, **constants: float) -> None:
    """Change constants of a file."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            tensor.CopyFrom(numpy_helper.from_array(np.array(constants[tensor.name], np.float32), tensor.name))
    onnx.save(model, path)


def opened(models_dir: Path) -> LoadedVersion:
    [folder] = list_models(models_dir)
    assert isinstance(folder, ModelFolder)
    return open_version(folder, "cpu", 1)


def detected(tmp_path: Path, *examples: Example, **constants: float) -> Agreement:
    """Compare a detector with one whose constants differ."""
    for name in ("old", "new"):
        models.bright_boxes(tmp_path / name, "finder", FINDER)
    changed(tmp_path / "new" / "finder" / "1" / "model.onnx", **constants)
    versions = opened(tmp_path / "old"), opened(tmp_path / "new")
    return agreement.compare_versions(*versions, Examples("pictures", examples), lambda items: items)


def test_detectors_agree_by_their_detections(tmp_path: Path) -> None:
    found = detected(tmp_path, picture(RED), picture(RED, GREEN), red_score=0.84)
    assert (found.share, found.rows) == (1.0, 3)
    assert found.drift == pytest.approx(0.06, abs=1e-5)
    assert "a detection of the same class in the same place (IoU 0.5)" in found.rule


def test_a_lost_detection_counts_though_raw_outputs_hardly_differ(tmp_path: Path) -> None:
    found = detected(tmp_path, picture(RED), picture(GREEN), red_score=0.01)
    assert (found.share, found.rows) == (0.5, 2)
    assert found.drift == pytest.approx(0.9)


def test_a_detection_that_is_new_counts(tmp_path: Path) -> None:
    found = detected(tmp_path, picture(GREEN), picture((120, 255, 0)), half=0.4)
    assert found.share < 1


def test_a_score_around_the_threshold_is_the_same_detection(tmp_path: Path) -> None:
    for name in ("old", "new"):
        models.bright_boxes(tmp_path / name, "finder", FINDER + "score_threshold = 0.88")
    changed(tmp_path / "new" / "finder" / "1" / "model.onnx", red_score=0.87)
    versions = opened(tmp_path / "old"), opened(tmp_path / "new")
    found = agreement.compare_versions(*versions, Examples("pictures", [picture(RED)]), lambda items: items)
    assert (found.share, found.rows) == (1.0, 1)


def test_outputs_are_compared_where_nothing_is_detected(tmp_path: Path) -> None:
    found = detected(tmp_path, picture())
    assert (found.share, found.rows) == (1.0, 1)
    assert found.rule == "every output within 0.05 of its largest number"
    assert "nothing that either version detects" in found.what


@pytest.mark.parametrize(("noise", "share"), [(0.05, 1.0), (1.0, 0.0)])
def test_embeddings_agree_by_their_angle(tmp_path: Path, noise: float, share: float) -> None:
    """The length of a vector does not count, and single numbers may differ by much more than 5 %."""
    weights = numbers(3 * 8 * 8, 256)
    for name, values in (("old", weights), ("new", 3 * (weights + noise * numbers(3 * 8 * 8, 256, seed=2)))):
        nodes = [node("Flatten", ["image"], ["f"]), node("MatMul", ["f", "w"], ["y"])]
        path = tmp_path / name / "m" / "1" / "model.onnx"
        write(path, nodes, {"image": ["N", 3, 8, 8]}, {"y": ["N", 256]}, {"w": values})
        (tmp_path / name / "m" / "model.toml").write_text('task = "image-embedding"\nprovider = "cpu"')
    versions = opened(tmp_path / "old"), opened(tmp_path / "new")
    examples = Examples("pictures", [picture(RED), picture(RED, GREEN)])
    found = agreement.compare_versions(*versions, examples, lambda items: items)
    assert (found.share, found.rule) == (share, "an angle of at most 10 degrees")
    assert (found.drift < 10) == (share == 1.0)


@pytest.mark.parametrize(("half", "share"), [(0.52, 1), (1.5, 0)])
def test_masks_agree_by_the_classes_of_their_cells(tmp_path: Path, half: float, share: float) -> None:
    for name in ("old", "new"):
        segmentation.colours(tmp_path / name, cell=1)
    path = tmp_path / "new" / "scene" / "1" / "model.onnx"
    model = onnx.load(path)
    (tensor,) = (each for each in model.graph.initializer if each.name == "half")
    tensor.CopyFrom(numpy_helper.from_array(np.full((1, 1, 1, 1), half, np.float32), "half"))
    onnx.save(model, path)
    versions = opened(tmp_path / "old"), opened(tmp_path / "new")
    found = agreement.compare_versions(*versions, Examples("pictures", [picture(RED)]), lambda items: items)
    assert (found.share, found.rows, found.unit) == (share, 1, "of the cells")
    assert found.rule == "the same class for 95% of the output's cells"
