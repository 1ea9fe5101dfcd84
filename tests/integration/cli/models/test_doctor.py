"""The doctor finds and names what prevents batching, and repairs it with proof where it can."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from cli import main
from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.graph import compute_rules
from model_runtime.graph.diagnosis import diagnose
from tests.support import models
from tests.support.model_files.cases import COUPLED, MENDABLE
from tests.support.model_files.graphs import Values, node, numbers, with_random_weights, write

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
Said = pytest.CaptureFixture[str]


def doctor(*args: object) -> int:
    return main.main(["models", "doctor", *map(str, args), "--provider", "cpu"])


# A batch of three is not squeezed away.
@pytest.mark.parametrize(
    ("case", "batch"), [(case, n) for case in MENDABLE for n in (1, 3) if (case, n) != ("squeeze", 3)]
)
def test_a_fixed_batch_size_is_repaired_and_every_row_has_its_answer(
    case: str, batch: int, tmp_path: Path, capsys: Said
) -> None:
    path, out = MENDABLE[case](tmp_path / "made.onnx", batch), tmp_path / "2" / "model.onnx"
    assert doctor(path) == 1
    told = capsys.readouterr().out
    assert "cannot be batched as it is" in told
    assert "jitney models doctor" in told
    assert doctor(path, "--fix", out) == 0, capsys.readouterr()
    assert "written, can be batched" in capsys.readouterr().out
    assert sorted(one.name for one in tmp_path.iterdir()) == ["2", "made.onnx"]
    mended = OnnxEngine(out, "cpu", 1)
    assert (mended.batchable, mended.batch_note) == (True, "")
    shape = mended.inputs[0].shape
    rows = numbers(5 * batch, *shape, seed=2)
    together = mended.run({"x": rows})["y"].reshape(len(rows), -1)
    for at in range(0, 5 * batch, batch):
        assert np.allclose(together[at : at + batch], original(path, rows[at : at + batch]), atol=1e-5)


def original(path: Path, rows: Values) -> Values:
    """The answers of the original file to a batch of its fixed size, by the reference implementation."""
    is_recurrent = onnx.load(path).graph.node[0].op_type == "LSTM"
    given = np.moveaxis(rows, 0, 1) if is_recurrent else rows
    (answer,) = ReferenceEvaluator(str(path)).run(["y"], {"x": given})
    return np.asarray(answer).reshape(len(rows), -1)


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("case", COUPLED)
def test_an_operator_that_couples_rows_is_refused_by_name(
    case: str, batch: int | str, tmp_path: Path, capsys: Said
) -> None:
    operator, make = COUPLED[case]
    path, out = make(tmp_path / "made.onnx", batch), tmp_path / "out.onnx"
    assert doctor(path, "--fix", out) == 1
    told = capsys.readouterr().out
    assert "cannot be batched, and this cannot be fixed" in told
    assert f"{operator} 'the-culprit': " in told
    assert [one.name for one in tmp_path.iterdir()] == ["made.onnx"], "nothing was written"


def test_the_original_squeezenet_is_repaired_and_passes_the_check(
    shared_data: Path, tmp_path: Path, capsys: Said
) -> None:
    out = tmp_path / "squeezenet.onnx"
    assert doctor(shared_data / "models" / "squeezenet1.1_fp16.onnx", "--fix", out) == 0
    assert main.main(["models", "check", str(out), "--provider", "cpu"]) == 0
    assert "passes the check" in capsys.readouterr().out


@pytest.mark.timeout(180)  # 25 million weights, run some fifty times
def test_resnet_50_is_repaired_and_passes_the_check(tmp_path: Path, capsys: Said) -> None:
    """With other weights: those of the package give the same answer for every picture."""
    source = with_random_weights(LIGHT / "light_resnet50.onnx", tmp_path / "resnet50.onnx")
    out = tmp_path / "mended.onnx"
    assert doctor(source) == 1
    assert "Reshape 'n173': its shape [1, 2048] contained a batch of 1" in capsys.readouterr().out
    assert doctor(source, "--fix", out) == 0
    assert main.main(["models", "check", str(out), "--sizes", "2,3", "--provider", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "passes the check" in told
    assert "whatever is in it" not in told, "answers depend on what is asked"


@pytest.mark.parametrize("name", ["densenet121", "inception_v1", "resnet50", "shufflenet"])
def test_networks_of_the_onnx_package_are_understood(name: str, tmp_path: Path) -> None:
    found = diagnose(onnx.load(LIGHT / f"light_{name}.onnx"))
    assert found.mended is not None
    assert (found.fatal, found.doubts) == ([], [])
    onnx.save(found.mended, tmp_path / "mended.onnx")
    engine = OnnxEngine(tmp_path / "mended.onnx", "cpu", 1)
    assert engine.batchable
    assert engine.run({engine.inputs[0].name: np.zeros((3, 3, 224, 224), np.float32)}).popitem()[1].shape[0] == 3


def test_an_unknown_operator_is_refused_by_name(shared_data: Path, tmp_path: Path, capsys: Said) -> None:
    path, out = shared_data / "models" / "resnet8-cifar10" / "network.onnx", tmp_path / "out.onnx"
    assert doctor(path, "--fix", out) == 1
    assert "unknown operator RequantShift" in capsys.readouterr().out
    assert not out.exists()


def test_a_batchable_model_is_reported_as_such_and_left_alone(tmp_path: Path, capsys: Said) -> None:
    path, out = models.doubling(tmp_path) / "1" / "model.onnx", tmp_path / "out.onnx"
    assert doctor(path, "--fix", out) == 0
    assert f"{path}: can be batched" in capsys.readouterr().out
    assert not out.exists()


def test_a_model_with_an_uncertain_diagnosis_is_not_repaired(shared_data: Path, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "out.onnx"
    assert doctor(shared_data / "fault_models" / "slow_by_input.onnx", "--fix", out) == 1
    assert "not certain: Loop" in capsys.readouterr().out
    assert not out.exists()


def test_a_repaired_copy_that_fails_its_proof_is_deleted(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check finds a wrong rule of the doctor."""
    wrong = {**compute_rules.RULES, "Softmax": compute_rules.pointwise}
    monkeypatch.setattr("model_runtime.graph.batch_axis_flow.RULES", wrong)
    path, out = COUPLED["a softmax over the batch"][1](tmp_path / "made.onnx", 1), tmp_path / "out.onnx"
    assert doctor(path, "--fix", out) == 1
    assert "the fixed copy was discarded: rows are mixed: beside neighbours " in capsys.readouterr().out
    assert [one.name for one in tmp_path.iterdir()] == ["made.onnx"]


def test_nothing_is_overwritten(tmp_path: Path, capsys: Said) -> None:
    path, out = MENDABLE["reshape"](tmp_path / "made.onnx", 1), tmp_path / "out.onnx"
    out.write_text("mine")
    assert doctor(path, "--fix", out) == 1
    assert f"{out}: --fix: already exists" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_the_doctor_without_the_onnx_package_says_what_to_install(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models.doubling(tmp_path) / "1" / "model.onnx"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name != "onnx" or None)
    assert main.main(["models", "doctor", str(path)]) == 2
    assert 'pip install -e ".[models]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"xx", "is not an ONNX model: its 2 bytes contain no graph"),
        (b"\x3a\x7fjunk", "is not an ONNX"),
    ],
)
def test_a_file_that_is_no_model_is_one_line(content: bytes, reason: str, tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert doctor(tmp_path / "model.onnx") == 1
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert f"{tmp_path / 'model.onnx'}: {reason}" in told.err


def test_a_missing_file_has_another_exit_code(tmp_path: Path, capsys: Said) -> None:
    assert doctor(tmp_path / "none.onnx") == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert doctor(tmp_path) == 2
    assert "contains no model" in capsys.readouterr().err


def test_a_folder_is_examined_in_its_served_version(tmp_path: Path, capsys: Said) -> None:
    folder = models.doubling(tmp_path)
    write(folder / "2" / "model.onnx", [node("Add", ["x", "x"], ["y"])], {"x": [1, 4]}, {"y": [1, 4]})
    assert [doctor(folder), doctor(folder / "1"), doctor(folder / "2")] == [1, 0, 1]
    assert "2/model.onnx: cannot be batched as it is" in capsys.readouterr().out
