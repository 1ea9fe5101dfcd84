"""Preprocessing in the graph gives the same answers as before, for every preset, layout and colour."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from batching.collation import stack_items
from cli.models.optimizing.evaluation.calibration_data import make_synthetic_examples
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion, open_version
from cli.models.optimizing.passes import fold_preprocessing
from model_runtime.repository.repository import ModelFolder, list_models, with_version_spec
from tests.support.model_files import graphs

PIPELINES = {
    "torch": ('preset = "torch"', [3, 224, 224], TensorProto.FLOAT),
    "tf": ('preset = "tf"\nresize = [32, 48]', [32, 48, 3], TensorProto.FLOAT),
    "caffe": ('preset = "caffe"\nresize = 40\ncrop = [32, 36]', [3, 32, 36], TensorProto.FLOAT),
    "BGR, channels last": ('color = "BGR"\nlayout = "NHWC"\nmean = [1, 2, 3]', [16, 16, 3], TensorProto.FLOAT),
    "gray": ('color = "gray"\nscale = 0.004\nmean = 0.5\nstd = 0.25', [1, 28, 28], TensorProto.FLOAT),
    "as they are": ("resize = [8, 8]", [3, 8, 8], TensorProto.FLOAT),
    "FP16": ('preset = "torch"\nresize = [16, 16]', [3, 16, 16], TensorProto.FLOAT16),
}


def lay_out(folder: Path, image: str, row: list[int], kind: int) -> LoadedVersion:
    """A model that returns its input, flattened: every number of the input is visible."""
    taken: dict[str, graphs.Shape] = {"image": ["N", *row]}
    given: dict[str, graphs.Shape] = {"flat": ["N", int(np.prod(row))]}
    kinds = {"image": kind, "flat": kind}
    graphs.write(folder / "1" / "model.onnx", [graphs.node("Flatten", ["image"], ["flat"])], taken, given, kinds=kinds)
    (folder / "model.toml").write_text(f'task = "image-classification"\n[image]\n{image}')
    return opened(folder)


def opened(folder: Path) -> LoadedVersion:
    [found] = list_models(folder.parent)
    assert isinstance(found, ModelFolder)
    return open_version(with_version_spec(found), "cpu", 1)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_number_of_the_input_is_the_same(tmp_path: Path, pipeline: str) -> None:
    image, row, kind = PIPELINES[pipeline]
    before = lay_out(tmp_path / "same", image, row, kind)
    (tmp_path / "same" / "2").mkdir()
    fold_preprocessing.write(before.folder.onnx, tmp_path / "same" / "2" / "model.onnx", before)
    (tmp_path / "same" / "2" / "model.toml").write_text(fold_preprocessing.folded_spec(before))
    after = opened(tmp_path / "same")
    assert (after.folder.version, after.engine.inputs[0].datatype, after.engine.batchable) == ("2", "UINT8", True)
    rows = make_synthetic_examples(before).rows
    one, other = (
        served.engine.run(stack_items([example(served.task) for example in rows[:3]]))["flat"].astype(np.float64)
        for served in (before, after)
    )
    assert one.std() > 0.01
    assert np.abs(one - other).max() <= 1e-4 * np.abs(one).max()


def test_existing_names_are_not_reused(tmp_path: Path) -> None:
    before = lay_out(tmp_path / "same", *PIPELINES["gray"])
    model = onnx.load(before.folder.onnx)
    model.graph.node[0].name = "pixels_1"
    onnx.save(model, before.folder.onnx)
    fold_preprocessing.write(before.folder.onnx, tmp_path / "folded.onnx", before)
    assert onnx.load(tmp_path / "folded.onnx").graph.input[0].name == "pixels0"


def test_the_version_spec_holds_all_that_decoding_needs(tmp_path: Path) -> None:
    image = 'preset = "caffe"\nfilter = "lanczos"\nbackground = [1, 2, 3]\nmax_pixels = 1000000'
    before = lay_out(tmp_path / "same", image, [3, 224, 224], TensorProto.FLOAT)
    shutil.copytree(tmp_path / "same" / "1", tmp_path / "same" / "2")
    (tmp_path / "same" / "2" / "model.toml").write_text(fold_preprocessing.folded_spec(before))
    [found] = list_models(tmp_path)
    assert isinstance(found, ModelFolder)
    old, new = before.folder.spec.image, with_version_spec(found).spec.image
    kept = ("resize", "crop", "filter", "background", "max_pixels")
    assert [getattr(new, key) for key in kept] == [getattr(old, key) for key in kept]
    assert (new.color, new.layout, new.preset, new.is_normalising) == ("RGB", "NHWC", None, False)


def test_a_letterbox_stays_a_letterbox(tmp_path: Path) -> None:
    image = 'resize = [224, 224]\nfit = "letterbox-corner"\nscale = 0.5'
    before = lay_out(tmp_path / "same", image, [3, 224, 224], TensorProto.FLOAT)
    assert 'fit = "letterbox-corner"' in fold_preprocessing.folded_spec(before)
