"""`jitney models doctor`: diagnoses whether an ONNX file can be batched, and writes a verified fixed copy."""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import onnx

from batching.collation import stack_items
from cli.models import onnx_files
from cli.models.check import CheckResult, check_engine, default_sizes
from model_runtime.engine.onnx_engine import OnnxEngine, RunFailed
from model_runtime.graph.diagnosis import Diagnosis, diagnose
from model_runtime.profiling import batch_consistency, synthetic_inputs
from model_runtime.repository.path_checks import check_onnx
from model_runtime.spec.model_toml import ModelError

_MAX_SAME_KIND: Final = 4  # findings of one kind to list before the rest are counted


class DoctorResult(NamedTuple):
    """The result. `good`: whether the file, or its copy, can be batched. `lines`: verdict and findings."""

    good: bool
    lines: list[str]


def examine(path: Path, fix: Path | None, provider: str = "auto") -> DoctorResult:
    """Diagnose a file, and write a fixed copy to `fix`. Raises ModelError if reading or writing fails."""
    check_onnx(path)
    diagnosis = diagnose(onnx_files.read(path))
    if diagnosis.fatal:
        return DoctorResult(
            good=False, lines=[f"{path}: cannot be batched, and this cannot be fixed", *_list_findings(diagnosis)]
        )
    if not diagnosis.obstacles:
        return _try_unchanged(path, diagnosis, provider)
    if diagnosis.mended is None:
        verdict = f"{path}: cannot be batched as it is, and it is not certain that this can be fixed"
        return DoctorResult(good=False, lines=[verdict, *_list_findings(diagnosis)])
    if fix is None:
        hint = f"  all of it can be fixed in a copy: jitney models doctor {path} --fix OUT.onnx"
        return DoctorResult(good=False, lines=[f"{path}: cannot be batched as it is", *_list_findings(diagnosis), hint])
    return _write_fixed_copy(path, diagnosis, diagnosis.mended, fix, provider)


def _try_unchanged(path: Path, diagnosis: Diagnosis, provider: str) -> DoctorResult:
    """Check a file whose graph has no known obstacle."""
    engine = OnnxEngine(path, provider)
    checked = check_engine(str(path), engine, default_sizes(engine))
    doubts = [f"  not certain from the graph alone: {doubt}" for doubt in diagnosis.doubts]
    if reason := checked.reason if doubts else checked.failure:  # a graph without doubts needs no check
        return DoctorResult(good=False, lines=[f"{path}: cannot be batched: {reason}", *doubts])
    return DoctorResult(good=True, lines=[f"{path}: can be batched", *checked.lines()[1:], *doubts])


def _write_fixed_copy(
    path: Path, diagnosis: Diagnosis, fixed: onnx.ModelProto, out: Path, provider: str
) -> DoctorResult:
    """Write the copy to a temporary folder, verify it, and move it into place."""
    if out.exists() or out.is_symlink():
        raise ModelError(out, "--fix", "already exists; allowed: a new file, such as in a new version folder")
    onnx_files.check_size(fixed, out, "--fix")
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".jitney-", dir=folder) as temporary:
            copy = Path(temporary) / out.name
            onnx.save(fixed, copy)
            checked, reason = _verify_copy(path, copy, str(out), provider)
            if checked is None or reason:
                verdict = f"{path}: the fixed copy was discarded: {reason}"
                return DoctorResult(good=False, lines=[verdict, *_list_findings(diagnosis)])
            out.parent.mkdir(parents=True, exist_ok=True)
            copy.replace(out)
    except OSError as error:
        raise ModelError(out, "--fix", f"cannot be written: {error.strerror}") from error
    return DoctorResult(
        good=True,
        lines=[f"{out}: written, can be batched", *_list_findings(diagnosis, "fixed: "), *checked.lines()[1:]],
    )


def _verify_copy(path: Path, copy: Path, title: str, provider: str) -> tuple[CheckResult | None, str]:
    """Check a copy and compare it with the original; return the result and the reason of a failure."""
    try:
        engine = OnnxEngine(copy, provider)
        checked = check_engine(title, engine, default_sizes(engine))
    except ModelError as error:
        return None, error.reason
    return checked, checked.failure or _compare_outputs(path, engine, provider)


def _compare_outputs(path: Path, copy: OnnxEngine, provider: str) -> str:
    """Compare the outputs of single rows; return the difference as text. Skip originals that cannot run one row."""
    try:
        original = OnnxEngine(path, provider)
    except ModelError:  # it has a fixed batch size above 1
        return ""
    if original.inputs != copy.inputs:  # the batch was another dimension
        return ""
    tolerance = batch_consistency.tolerance_of([*original.inputs, *original.outputs], original.provider)
    try:
        for row in synthetic_inputs.make_rows(
            original.inputs, 3, batch_consistency.SEED, lambda row: original.run(stack_items([row]))
        ).rows:
            batch = stack_items([row])
            difference = batch_consistency.relative_difference(original.run(batch), copy.run(batch))
            if difference > tolerance:
                return f"its output of a row differs from the original by {difference:.2g}; allowed: {tolerance:g}"
    except RunFailed as error:
        return f"a row does not run: {error}"
    return ""


def _list_findings(diagnosis: Diagnosis, prefix: str = "") -> list[str]:
    """Return the findings as lines; of one kind, only the first few are listed."""
    lines = [*diagnosis.fatal, *diagnosis.obstacles]
    listed = []
    for kind, group in itertools.groupby(lines, key=lambda line: line.split(" ", 1)[0]):
        similar: Sequence[str] = list(group)
        listed += [f"  {prefix}{line}" for line in similar[:_MAX_SAME_KIND]]
        if len(similar) > _MAX_SAME_KIND:
            listed.append(f"  {prefix}and {len(similar) - _MAX_SAME_KIND} more of {kind}")
    return [*listed, *(f"  not certain: {doubt}" for doubt in diagnosis.doubts)]
