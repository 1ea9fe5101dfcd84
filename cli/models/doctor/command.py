"""`jitney models doctor`: tells whether a file can be batched, and writes a copy that can, proven before it appears."""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import onnx

from batching.collation import stack_items
from cli.models.check import CheckResult, check_engine, default_sizes
from model_runtime.engine.onnx_engine import OnnxEngine, RunFailed
from model_runtime.graph.diagnosis import Diagnosis, diagnose
from model_runtime.profiling import batch_consistency, synthetic_inputs
from model_runtime.repository.host_memory import format_bytes
from model_runtime.repository.path_checks import check_onnx
from model_runtime.spec.model_toml import ModelError

MAX_PROTOBUF_BYTES: Final = 2**31 - 1
_MAX_SAME_KIND: Final = 4  # lines about operators of one kind before the rest are counted


class DoctorResult(NamedTuple):
    """`good`: whether there is a batchable file now. `lines`: what there is to say, the first the verdict."""

    good: bool
    lines: list[str]


def examine(path: Path, fix: Path | None, provider: str = "auto") -> DoctorResult:
    """Diagnose and, where asked, mend; raises ModelError for what is no model or can not be written."""
    check_onnx(path)
    found = diagnose(_read(path))
    if found.fatal:
        return DoctorResult(
            good=False, lines=[f"{path}: can not be batched, and no copy can mend it", *_list_findings(found)]
        )
    if not found.obstacles:
        return _try_unchanged(path, found, provider)
    if found.mended is None:
        verdict = f"{path}: can not be batched as it is, and whether a copy could be is not certain"
        return DoctorResult(good=False, lines=[verdict, *_list_findings(found)])
    if fix is None:
        hint = f"  all of it can be mended in a copy: jitney models doctor {path} --fix OUT.onnx"
        return DoctorResult(good=False, lines=[f"{path}: can not be batched as it is", *_list_findings(found), hint])
    return _mend(path, found, found.mended, fix, provider)


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    except Exception as error:  # the package's errors, protobuf's and the system's share no base
        raise ModelError(path, None, f"can not be read as an ONNX model: {error}") from error


def _try_unchanged(path: Path, found: Diagnosis, provider: str) -> DoctorResult:
    """Nothing in the graph is in the way, as far as that can be told: then trying it tells."""
    engine = OnnxEngine(path, provider)
    checked = check_engine(str(path), engine, default_sizes(engine))
    doubts = [f"  not certain from the graph alone: {doubt}" for doubt in found.doubts]
    if checked.reason:
        return DoctorResult(good=False, lines=[f"{path}: can not be batched: {checked.reason}", *doubts])
    return DoctorResult(good=True, lines=[f"{path}: can be batched", *checked.lines()[1:], *doubts])


def _mend(path: Path, found: Diagnosis, mended: onnx.ModelProto, out: Path, provider: str) -> DoctorResult:
    """Write beside its place, try it there, and only then let it appear: nothing half-written is ever seen."""
    if out.exists() or out.is_symlink():
        raise ModelError(out, "--fix", "is there already; allowed: a new file, such as one in a new version's folder")
    if mended.ByteSize() > MAX_PROTOBUF_BYTES:
        size, limit = format_bytes(mended.ByteSize()), format_bytes(MAX_PROTOBUF_BYTES)
        reason = f"would have {size} with its weights; allowed in one file: {limit}"
        raise ModelError(out, "--fix", reason)
    folder = next(one for one in out.absolute().parents if one.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".jitney-", dir=folder) as room:
            copy = Path(room) / out.name
            onnx.save(mended, copy)
            checked, reason = _verify_copy(path, copy, str(out), provider)
            if checked is None or reason:
                verdict = f"{path}: a copy was made and is thrown away: {reason}"
                return DoctorResult(good=False, lines=[verdict, *_list_findings(found)])
            out.parent.mkdir(parents=True, exist_ok=True)
            copy.replace(out)
    except OSError as error:
        raise ModelError(out, "--fix", f"can not be written: {error.strerror}") from error
    return DoctorResult(
        good=True, lines=[f"{out}: written, can be batched", *_list_findings(found, "mended: "), *checked.lines()[1:]]
    )


def _verify_copy(path: Path, copy: Path, title: str, provider: str) -> tuple[CheckResult | None, str]:
    """What trying the copy came to, and why it will not do, empty where it does."""
    try:
        engine = OnnxEngine(copy, provider)
        checked = check_engine(title, engine, default_sizes(engine))
    except ModelError as error:
        return None, error.reason
    return checked, checked.reason or _compare_outputs(path, engine, provider)


def _compare_outputs(path: Path, mended: OnnxEngine, provider: str) -> str:
    """One row alone has the same answer in both; where the old one can be asked, for it takes one row at a time."""
    try:
        old = OnnxEngine(path, provider)
    except ModelError:  # made for a batch of several: there is nothing to ask
        return ""
    if old.inputs != mended.inputs:  # the batch was elsewhere
        return ""
    tolerance = batch_consistency.tolerance_of([*old.inputs, *old.outputs], old.provider)
    try:
        for row in synthetic_inputs.make_rows(
            old.inputs, 3, batch_consistency.SEED, lambda one: old.run(stack_items([one]))
        ).rows:
            apart = batch_consistency.relative_difference(old.run(stack_items([row])), mended.run(stack_items([row])))
            if apart > tolerance:
                return f"its answer to one row differs from the original's by {apart:.2g}; allowed: {tolerance:g}"
    except RunFailed as error:
        return f"one row does not run: {error}"
    return ""


def _list_findings(found: Diagnosis, prefix: str = "") -> list[str]:
    """What was found, a line each; many of one kind are counted after the first few."""
    lines = [*found.fatal, *found.obstacles]
    listed = []
    for kind, group in itertools.groupby(lines, key=lambda line: line.split(" ", 1)[0]):
        alike: Sequence[str] = list(group)
        listed += [f"  {prefix}{line}" for line in alike[:_MAX_SAME_KIND]]
        if len(alike) > _MAX_SAME_KIND:
            listed.append(f"  {prefix}and {len(alike) - _MAX_SAME_KIND} more of {kind}")
    return [*listed, *(f"  not certain: {doubt}" for doubt in found.doubts)]
