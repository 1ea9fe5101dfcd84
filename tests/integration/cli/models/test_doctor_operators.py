"""The doctor on every operator that ONNX has a test for: no crash, and only true claims."""

import collections
import warnings
from pathlib import Path

import onnx
import pytest
from onnx.backend.test.case.node import collect_testcases

from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.graph.diagnosis import diagnose
from model_runtime.profiling import batch_consistency
from model_runtime.spec.model_toml import ModelError

RARELY = 10  # rules that are wrong for odd inputs are caught by the check; most are right without it


@pytest.mark.timeout(300)
def test_repaired_models_are_batchable_and_nothing_crashes(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's own reference code
        graphs = {case.name: case.model for case in collect_testcases(None) if case.model is not None}
    counts: collections.Counter[str] = collections.Counter()
    for model in graphs.values():
        found = diagnose(model)
        if found.mended is None:
            counts["not mended"] += 1
            continue
        onnx.save(found.mended, tmp_path / "mended.onnx")
        counts[verdict(tmp_path / "mended.onnx")] += 1
    assert counts["passes"] > 400, counts
    assert counts["not mended"] > 400, counts
    assert counts["mixes"] < RARELY, counts


def verdict(path: Path) -> str:
    """The result of a copy that the doctor made."""
    try:
        engine = OnnxEngine(path, "cpu", 1)
    except ModelError:  # types and opsets that this runtime does not have
        return "not opened"
    if not engine.batchable:  # inputs that belong to all rows, and do not say so
        return "not batchable"
    check = batch_consistency.ConsistencyCheck(
        engine.inputs, engine.run, lambda rows: rows, batch_consistency.FINE_TOLERANCE
    )
    try:
        found = check.full([2, 3])
    except Exception:  # noqa: BLE001 - made-up rows are not to every operator's taste
        return "not run"
    return {True: "passes", False: "mixes", None: "proves nothing"}[found.checked]
