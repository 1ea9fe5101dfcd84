"""`jitney models doctor`: tells whether a file can be batched, and writes a copy that can, proven before it appears."""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import onnx

from batching.collation import fold
from cli.models.check import Checked, check_engine, usual_sizes
from model_runtime.engine.onnx_engine import Engine, RunFailed
from model_runtime.graph.diagnosis import Diagnosis, diagnose
from model_runtime.profiling import batch_consistency, synthetic_inputs
from model_runtime.repository.host_memory import shown
from model_runtime.repository.path_checks import check_onnx
from model_runtime.spec.model_toml import ModelError

LARGEST_BYTES: Final = 2**31 - 1
_ALIKE: Final = 4  # lines about operators of one kind before the rest are counted


class Answer(NamedTuple):
    """`good`: whether there is a batchable file now. `lines`: what there is to say, the first the verdict."""

    good: bool
    lines: list[str]


def examine(path: Path, fix: Path | None, provider: str = "auto") -> Answer:
    """Diagnose and, where asked, mend; raises ModelError for what is no model or can not be written."""
    check_onnx(path)
    found = diagnose(_read(path))
    if found.fatal:
        return Answer(good=False, lines=[f"{path}: can not be batched, and no copy can mend it", *_listed(found)])
    if not found.obstacles:
        return _as_it_is(path, found, provider)
    if found.mended is None:
        verdict = f"{path}: can not be batched as it is, and whether a copy could be is not certain"
        return Answer(good=False, lines=[verdict, *_listed(found)])
    if fix is None:
        hint = f"  all of it can be mended in a copy: jitney models doctor {path} --fix OUT.onnx"
        return Answer(good=False, lines=[f"{path}: can not be batched as it is", *_listed(found), hint])
    return _mend(path, found, found.mended, fix, provider)


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    except Exception as error:  # the package's errors, protobuf's and the system's share no base
        raise ModelError(path, None, f"can not be read as an ONNX model: {error}") from error


def _as_it_is(path: Path, found: Diagnosis, provider: str) -> Answer:
    """Nothing in the graph is in the way, as far as that can be told: then trying it tells."""
    engine = Engine(path, provider)
    checked = check_engine(str(path), engine, usual_sizes(engine))
    doubts = [f"  not certain from the graph alone: {doubt}" for doubt in found.doubts]
    if checked.reason:
        return Answer(good=False, lines=[f"{path}: can not be batched: {checked.reason}", *doubts])
    return Answer(good=True, lines=[f"{path}: can be batched", *checked.lines()[1:], *doubts])


def _mend(path: Path, found: Diagnosis, mended: onnx.ModelProto, out: Path, provider: str) -> Answer:
    """Write beside its place, try it there, and only then let it appear: nothing half-written is ever seen."""
    if out.exists() or out.is_symlink():
        raise ModelError(out, "--fix", "is there already; allowed: a new file, such as one in a new version's folder")
    if mended.ByteSize() > LARGEST_BYTES:
        reason = f"would have {shown(mended.ByteSize())} with its weights; allowed in one file: {shown(LARGEST_BYTES)}"
        raise ModelError(out, "--fix", reason)
    folder = next(one for one in out.absolute().parents if one.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".jitney-", dir=folder) as room:
            copy = Path(room) / out.name
            onnx.save(mended, copy)
            checked, reason = _proven(path, copy, str(out), provider)
            if checked is None or reason:
                verdict = f"{path}: a copy was made and is thrown away: {reason}"
                return Answer(good=False, lines=[verdict, *_listed(found)])
            out.parent.mkdir(parents=True, exist_ok=True)
            copy.replace(out)
    except OSError as error:
        raise ModelError(out, "--fix", f"can not be written: {error.strerror}") from error
    return Answer(
        good=True, lines=[f"{out}: written, can be batched", *_listed(found, "mended: "), *checked.lines()[1:]]
    )


def _proven(path: Path, copy: Path, title: str, provider: str) -> tuple[Checked | None, str]:
    """What trying the copy came to, and why it will not do, empty where it does."""
    try:
        engine = Engine(copy, provider)
        checked = check_engine(title, engine, usual_sizes(engine))
    except ModelError as error:
        return None, error.reason
    return checked, checked.reason or _differs(path, engine, provider)


def _differs(path: Path, mended: Engine, provider: str) -> str:
    """One row alone has the same answer in both; where the old one can be asked, for it takes one row at a time."""
    try:
        old = Engine(path, provider)
    except ModelError:  # made for a batch of several: there is nothing to ask
        return ""
    if old.inputs != mended.inputs:  # the batch was elsewhere
        return ""
    tolerance = batch_consistency.tolerance_of([*old.inputs, *old.outputs], old.provider)
    try:
        for row in synthetic_inputs.make(old.inputs, 3, batch_consistency.SEED, lambda one: old.run(fold([one]))).rows:
            apart = batch_consistency.apart(old.run(fold([row])), mended.run(fold([row])))
            if apart > tolerance:
                return f"its answer to one row differs from the original's by {apart:.2g}; allowed: {tolerance:g}"
    except RunFailed as error:
        return f"one row does not run: {error}"
    return ""


def _listed(found: Diagnosis, prefix: str = "") -> list[str]:
    """What was found, a line each; many of one kind are counted after the first few."""
    lines = [*found.fatal, *found.obstacles]
    listed = []
    for kind, group in itertools.groupby(lines, key=lambda line: line.split(" ", 1)[0]):
        alike: Sequence[str] = list(group)
        listed += [f"  {prefix}{line}" for line in alike[:_ALIKE]]
        if len(alike) > _ALIKE:
            listed.append(f"  {prefix}and {len(alike) - _ALIKE} more of {kind}")
    return [*listed, *(f"  not certain: {doubt}" for doubt in found.doubts)]
