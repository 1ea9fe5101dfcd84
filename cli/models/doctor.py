"""`jitney models doctor`: diagnoses whether an ONNX file can be batched, and writes a verified fixed copy."""

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import onnx

from batching.collation import stack_items
from cli.models import onnx_files
from cli.models.check import CheckResult, check_engine, default_sizes
from model_runtime.engine.onnx_engine import OnnxEngine, RunFailed
from model_runtime.graph.diagnosis import Diagnosis, diagnose
from model_runtime.graph.graph import dims_of, inputs_of
from model_runtime.profiling import batch_consistency, synthetic_inputs
from model_runtime.repository.path_checks import check_onnx
from model_runtime.spec.model_toml import ModelError
from model_runtime.spec.tensors import TensorKeys

_MAX_SAME_KIND: Final = 4  # findings of one kind to list before the rest are counted


class DoctorResult(NamedTuple):
    """The result. `good`: whether the file, or its copy, can be batched. `lines`: verdict and findings."""

    good: bool
    lines: list[str]


def examine(
    path: Path, fix: Path | None, provider: str = "auto", row_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> DoctorResult:
    """Diagnose a file, and write a fixed copy to `fix`. Raises ModelError if reading or writing fails.

    `row_shapes`: shapes of inputs with free dimensions, without the batch dimension.
    """
    check_onnx(path)
    model = onnx_files.read(path)
    inspection = Inspection(path, provider, model, _checked_shapes(path, model, row_shapes or {}))
    diagnosis = diagnose(model, inspection.row_shapes)
    if diagnosis.fatal:
        return _report_fatal(inspection, diagnosis)
    if diagnosis.keys or (diagnosis.suggested and diagnosis.is_open and fix is None):
        return _try_keys(inspection, diagnosis)
    if not diagnosis.obstacles:
        return _try_unchanged(inspection, diagnosis)
    if diagnosis.mended is None:
        verdict = f"{path}: cannot be batched as it is, and it is not certain that this can be fixed"
        return DoctorResult(good=False, lines=[verdict, *_list_findings(diagnosis)])
    if fix is None:
        hint = f"  all of it can be fixed in a copy: jitney models doctor {path} --fix OUT.onnx"
        return DoctorResult(good=False, lines=[f"{path}: cannot be batched as it is", *_list_findings(diagnosis), hint])
    return _write_fixed_copy(inspection, diagnosis, diagnosis.mended, fix)


class Inspection(NamedTuple):
    """The file that is diagnosed. `row_shapes`: as in `examine`."""

    path: Path
    provider: str
    model: onnx.ModelProto
    row_shapes: Mapping[str, tuple[int, ...]]

    def open(self, path: Path | None = None, keys: TensorKeys | None = None) -> OnnxEngine:
        """Open the file, or a copy of it, with the given shapes. Raises ModelError."""
        engine = OnnxEngine(path or self.path, self.provider, keys=keys)
        engine.inputs = [
            spec._replace(shape=shape) if spec.fits(shape := self.row_shapes.get(spec.name, spec.shape)) else spec
            for spec in engine.inputs
        ]
        return engine


def _checked_shapes(
    path: Path, model: onnx.ModelProto, row_shapes: Mapping[str, tuple[int, ...]]
) -> Mapping[str, tuple[int, ...]]:
    ranks = {value_info.name: len(dims_of(value_info)) for value_info in inputs_of(model)}
    for name, shape in row_shapes.items():
        if name not in ranks:
            raise ModelError(path, "--shape", f"there is no input {name!r}; allowed: {', '.join(ranks)}")
        if len(shape) != ranks[name] - 1:
            reason = f"{name} has {len(shape)} dimensions; allowed: {ranks[name] - 1}, without the batch dimension"
            raise ModelError(path, "--shape", reason)
    return row_shapes


def _report_fatal(inspection: Inspection, diagnosis: Diagnosis) -> DoctorResult:
    """Report what cannot be fixed, and the key for a model without a batch dimension."""
    path, findings = inspection.path, _list_findings(diagnosis)
    shapes = [dims_of(value_info) for value_info in inputs_of(inspection.model)]
    key = 'batch_axis = "none" in model.toml'
    if diagnosis.may_lack_batch and any(shape and shape[0] != 1 for shape in shapes):
        try:
            engine = inspection.open()
        except ModelError:  # its first dimension is fixed
            findings.append(f"  if its first dimension is not a batch, {key} serves it, one item a run")
        else:
            if all(len(spec.shape) == len(shape) for spec, shape in zip(engine.inputs, shapes, strict=True)):
                verdict = f"{path}: has no batch dimension, so it is served one item at a time; {key} says so"
                return DoctorResult(good=False, lines=[verdict, *findings])
    return DoctorResult(good=False, lines=[f"{path}: cannot be batched, and this cannot be fixed", *findings])


def _try_keys(inspection: Inspection, diagnosis: Diagnosis) -> DoctorResult:
    """Check a file that needs keys of model.toml, with values that its graph suggests."""
    keys, toml = TensorKeys(inputs=diagnosis.suggested), list[str]()
    for name, spec in diagnosis.suggested.items():
        entry = f"value = {spec.value}" if spec.value is not None else f"batch_axis = {spec.batch_axis}"
        toml += [f"    [inputs.{name}]", f"    {entry}"]
    try:
        engine = inspection.open(keys=keys)
        checked = check_engine(str(inspection.path), engine, default_sizes(engine))
        reason = checked.reason
    except ModelError as error:
        checked, reason = None, error.reason
    doubts = [f"  not certain from the graph alone: {doubt}" for doubt in diagnosis.doubts]
    if checked is None or reason:
        verdict = f"{inspection.path}: cannot be batched as it is, and with keys in model.toml it is not certain"
        tried = ["  tried:", *toml, f"  {reason}"]
        return DoctorResult(good=False, lines=[verdict, *_list_findings(diagnosis), *tried])
    hints = ["  (a value that suits the graph; another one may be meant)"] if diagnosis.keys else []
    if diagnosis.mended is not None:
        hints.append(f"  or without keys, as a copy: jitney models doctor {inspection.path} --fix OUT.onnx")
    lines = [f"{inspection.path}: can be batched, with these keys in model.toml", *toml, *hints]
    return DoctorResult(good=True, lines=[*lines, *checked.lines()[1:], *doubts])


def _try_unchanged(inspection: Inspection, diagnosis: Diagnosis) -> DoctorResult:
    """Check a file whose graph has no known obstacle."""
    path, engine = inspection.path, inspection.open()
    checked = check_engine(str(path), engine, default_sizes(engine))
    remarks = [
        *(f"  {note}" for note in diagnosis.notes),
        *(f"  not certain from the graph alone: {doubt}" for doubt in diagnosis.doubts),
    ]
    if reason := checked.reason if diagnosis.doubts else checked.failure:  # a graph without doubts needs no check
        return DoctorResult(good=False, lines=[f"{path}: cannot be batched: {reason}", *remarks])
    return DoctorResult(good=True, lines=[f"{path}: can be batched", *checked.lines()[1:], *remarks])


def _write_fixed_copy(inspection: Inspection, diagnosis: Diagnosis, fixed: onnx.ModelProto, out: Path) -> DoctorResult:
    """Write the copy to a temporary folder, verify it, and move it into place."""
    path = inspection.path
    if out.exists() or out.is_symlink():
        raise ModelError(out, "--fix", "already exists; allowed: a new file, such as in a new version folder")
    onnx_files.check_size(fixed, out, "--fix")
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".jitney-", dir=folder) as temporary:
            copy = Path(temporary) / out.name
            onnx.save(fixed, copy)
            checked, reason = _verify_copy(inspection, copy, str(out))
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


def _verify_copy(inspection: Inspection, copy: Path, title: str) -> tuple[CheckResult | None, str]:
    """Check a copy and compare it with the original; return the result and the reason of a failure."""
    try:
        engine = inspection.open(copy)
        checked = check_engine(title, engine, default_sizes(engine))
    except ModelError as error:
        return None, error.reason
    return checked, checked.failure or _compare_outputs(inspection, engine)


def _compare_outputs(inspection: Inspection, copy: OnnxEngine) -> str:
    """Compare the outputs of single rows; return the difference as text. Skip originals that cannot run one row."""
    try:
        original = inspection.open()
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
    lines = [*diagnosis.fatal, *diagnosis.obstacles, *diagnosis.keys]
    listed = []
    for kind, group in itertools.groupby(lines, key=lambda line: line.split(" ", 1)[0]):
        similar: Sequence[str] = list(group)
        listed += [f"  {prefix}{line}" for line in similar[:_MAX_SAME_KIND]]
        if len(similar) > _MAX_SAME_KIND:
            listed.append(f"  {prefix}and {len(similar) - _MAX_SAME_KIND} more of {kind}")
    return [*listed, *(f"  not certain: {doubt}" for doubt in diagnosis.doubts)]
