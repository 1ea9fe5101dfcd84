"""References in an ONNX file are checked before the runtime opens it; each refusal is one line."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.repository.onnx_file import read_external_data
from model_runtime.repository.path_checks import check_folder, check_onnx
from model_runtime.spec.model_toml import ModelError
from tests.support import models
from tests.support.model_files.graphs import int64_constant, node, write

BYTES = np.arange(4, dtype=np.float32).tobytes()


def tensor(location: str, **more: int) -> TensorProto:
    """Four floats in another file."""
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        made.external_data.add(key=key, value=str(value))
    return made


def pointing(folder: Path, location: str, **more: int) -> Path:
    """x + w, with w in another file."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    graph = helper.make_graph([node("Add", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [tensor(location, **more)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        check_onnx(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_beside_the_file_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8) + BYTES)
    engine = OnnxEngine(pointing(tmp_path, "w.bin", offset=8, length=16), "cpu", 1)
    assert engine.run({"x": np.zeros((1, 4), np.float32)})["y"].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    "location",
    ["../w.bin", "/etc/hostname", "a/../../w.bin", "..", "", "C:\\w.bin", "\\\\host\\w", "a\\..\\..\\w", "w\0.bin"],
)
def test_no_location_leads_outside(location: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(BYTES)
    (tmp_path / "1").mkdir()
    assert "leads outside of" in refusal(pointing(tmp_path / "1", location))


def _missing(_: Path) -> None: ...


def _linked(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def _hard(path: Path) -> None:
    (path.parent.parent / "secret").write_bytes(BYTES)
    path.hardlink_to(path.parent.parent / "secret")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _short(path: Path) -> None:
    path.write_bytes(BYTES[:7])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_missing, "w.bin cannot be read: No such file"),
        (_linked, "w.bin leads outside of the folder"),
        (_hard, "w.bin has 2 hard links"),
        (_pipe, "w.bin is not a regular file"),
        (_folder, "w.bin is not a regular file"),
        (_short, "has 7 bytes, but a tensor needs bytes 0 to 16; allowed: the complete file of the same export"),
    ],
)
def test_only_a_whole_regular_file_is_read(make: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    make(tmp_path / "1" / "w.bin")
    assert reason in refusal(pointing(tmp_path / "1", "w.bin", length=16))


def test_references_in_subgraphs_and_functions_are_found(tmp_path: Path) -> None:
    inner = helper.make_graph([], "inner", [], [], [tensor("in-a-branch")])
    branch = node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    held = node("Constant", [], ["v"], value=tensor("in-a-constant"))
    graph = helper.make_graph([branch, held], "g", [], [], [tensor("in-the-graph")])
    sparse = onnx.SparseTensorProto(values=tensor("in-a-sparse"), indices=tensor("its-indices"))
    graph.sparse_initializer.append(sparse)
    function = helper.make_function(
        "mine",
        "f",
        [],
        ["v"],
        [node("Constant", [], ["v"], value=tensor("in-a-function"))],
        [helper.make_opsetid("", 17)],
    )
    model = helper.make_model(graph, functions=[function])
    model.training_info.add().algorithm.CopyFrom(helper.make_graph([], "t", [], [], [tensor("in-training")]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    found = {one.location for one in read_external_data(tmp_path / "m.onnx")}
    assert found == {
        f"in-{place}" for place in ("a-branch", "a-constant", "the-graph", "a-sparse", "a-function", "training")
    } | {"its-indices"}


def test_a_model_of_forty_gigabytes_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(1 << 43)  # of holes: it takes no room
    assert "its weights need " in refusal(pointing(tmp_path, "w.bin", length=1 << 43))
    assert "allowed here: " in refusal(tmp_path / "model.onnx")


def test_a_row_that_cannot_fit_is_refused_without_a_run(tmp_path: Path) -> None:
    shape: list[int | str] = ["N", 1 << 20, 1 << 24]
    path = write(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], {"x": shape}, {"y": shape})
    with pytest.raises(
        ModelError, match=r"'x' is FP32 \[-1, 1048576, 16777216\]: one row needs at least .* GB; allowed here: "
    ):
        OnnxEngine(path, "cpu", 1)


def test_a_run_that_cannot_fit_is_refused_with_the_needed_memory(tmp_path: Path) -> None:
    """Nothing in the file is large, but an intermediate result is."""
    nodes = [
        node("ConstantOfShape", ["many"], ["z"]),
        node("ReduceSum", ["z"], ["s"], keepdims=0),
        node("Add", ["x", "s"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {"many": int64_constant(1 << 48)})
    with pytest.raises(
        ModelError, match=r"needs more memory than the .* of this |cannot load it: .*[Ff]ailed to allocate"
    ):
        OnnxEngine(path, "cpu", 1)


@pytest.mark.parametrize(
    ("opset", "operator", "reason"),
    [
        (99, "Relu", "its opset of ai.onnx is newer than ONNX Runtime .* supports; allowed: up to "),
        (1, "Add", "it does not support Add of opset 1; allowed: an export for a newer opset"),
        (17, "Frobnicate", "ONNX Runtime .* does not support the operator Frobnicate; allowed: operators of ONNX"),
    ],
)
def test_an_opset_or_operator_unknown_to_the_runtime_is_named(
    opset: int, operator: str, reason: str, tmp_path: Path
) -> None:
    taken = ["x", "x"] if operator == "Add" else ["x"]
    path = write(tmp_path / "m.onnx", [node(operator, taken, ["y"])], {"x": ["N", 4]}, {"y": ["N", 4]}, opset=opset)
    with pytest.raises(ModelError, match=reason):
        OnnxEngine(path, "cpu", 1)


def test_a_file_of_a_folder_may_not_link_outside(tmp_path: Path) -> None:
    folder = models.doubling(tmp_path / "models")
    file = folder / "1" / "model.onnx"
    check_folder(folder, file)
    (folder / "2").symlink_to("1")  # within the folder
    check_folder(folder, folder / "2" / "model.onnx")
    file.rename(tmp_path / "elsewhere.onnx")
    file.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ModelError, match="leads outside of the folder"):
        check_folder(folder, file)
    file.unlink()
    file.hardlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ModelError, match="has 2 hard links"):
        check_folder(folder, file)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_junk_is_refused_or_harmless(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A real model with flipped bytes gives an answer or a ModelError, and nothing else."""
    folder = tmp_path_factory.getbasetemp() / "junk"
    folder.mkdir(exist_ok=True)
    w = {"w": numpy_helper.to_array(numpy_helper.from_array(np.ones(4, np.float32)))}
    path = write(folder / "m.onnx", [node("Add", ["x", "w"], ["y"])], {"x": ["N", 4]}, {"y": ["N", 4]}, w)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(ModelError):
        assert isinstance(read_external_data(path), list)
