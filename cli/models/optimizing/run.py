"""The whole of it: open, make, try, compare, measure, and only then move in; what fails on the way leaves nothing."""

import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cli.models.check import check
from cli.models.model_paths import ModelPath
from cli.models.optimizing import build, publish_version
from cli.models.optimizing.evaluation import agreement, calibration_data, timing
from cli.models.optimizing.evaluation.calibration_data import Examples
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion, open_version
from cli.models.optimizing.evaluation.report import OptimizationReport
from cli.models.optimizing.options import OptimizeOptions
from cli.models.optimizing.passes import fold_preprocessing
from cli.models.optimizing.progress import Progress
from model_runtime.profiling.batch_consistency import SEED
from model_runtime.profiling.profile_store import model_digest
from model_runtime.repository.repository import ONNX_FILE, ModelFolder
from model_runtime.spec.model_toml import ModelError, read_spec


class ExampleSets(NamedTuple):
    """What it is calibrated with, None where it is not, and what it is judged by."""

    calibration: Examples | None
    validation: Examples


def optimize(folder: ModelFolder, wishes: OptimizeOptions, progress: Progress) -> OptimizationReport:
    """Raises ModelError and NothingThere; where the new version answers too differently, the report has a reason."""
    old = open_version(folder, wishes.provider, wishes.threads)
    if not old.engine.batchable:
        reason = f"can not be batched: {old.engine.batch_note}; `jitney models doctor` tells whether that can be mended"
        raise ModelError(folder.onnx, None, reason)
    if wishes.fold:
        fold_preprocessing.check_foldable(old)
    given = _load_example_sets(old, wishes, progress)
    with publish_version.staging_folder(folder.path) as room:
        version = room / "version"
        version.mkdir()
        notes = build.build_version(old, wishes, given.calibration, version / ONNX_FILE, progress)
        new = _open_new_version(old, version, wishes)
        report = _start_report(old, new, wishes, given)
        report.notes += notes
        report.agreement = agreement.compare_versions(
            old, new, given.validation, partial(progress.over, "comparing answers")
        )
        if wishes.seconds:
            _measure(report, (old, new), given, wishes.seconds, progress)
        report.reason = _rejection_reason(new, report, wishes)
        if wishes.write and not report.reason:
            _publish(version, report, old)
    return report


def _load_example_sets(old: LoadedVersion, wishes: OptimizeOptions, progress: Progress) -> ExampleSets:
    """Raises ModelError where there are too few. Nothing is judged by what it was calibrated with."""
    look = partial(progress.over, "looking at files")
    calibration = validation = None
    if wishes.calibrate is not None:
        calibration = calibration_data.load_examples(wishes.calibrate, old, "--calibrate", look)
    if wishes.validate is not None:
        validation = calibration_data.load_examples(wishes.validate, old, "--validate", look)
    elif calibration is not None:
        calibration, validation = calibration_data.split_examples(calibration)
    return ExampleSets(calibration, validation or calibration_data.make_synthetic_examples(old))


def _open_new_version(old: LoadedVersion, version: Path, wishes: OptimizeOptions) -> LoadedVersion:
    """Raises ModelError where a worker could not serve it, or its riders would mix."""
    spec = read_spec(version.parent.parent, str(version.relative_to(version.parent.parent)))
    folder = old.folder._replace(onnx=version / ONNX_FILE, spec=spec)
    new = open_version(folder, wishes.provider, wishes.threads)
    if new.engine.outputs != old.engine.outputs or (not wishes.fold and new.engine.inputs != old.engine.inputs):
        ports = [port.card() for port in (*new.engine.inputs, *new.engine.outputs)]
        raise ModelError(old.folder.onnx, None, f"optimized, it would take or give something else: {ports}")
    return new


def _start_report(
    old: LoadedVersion, new: LoadedVersion, wishes: OptimizeOptions, given: ExampleSets
) -> OptimizationReport:
    skipped = [*(given.calibration.skipped if given.calibration else ()), *given.validation.skipped]
    return OptimizationReport(
        old.folder.name,
        old.folder.version,
        wishes.words,
        device=new.engine.device,
        runtime=new.engine.runtime,
        bytes_old=old.size_bytes,
        bytes_new=new.size_bytes,
        calibrated_with=given.calibration.what if given.calibration else "",
        min_agreement=wishes.min_agreement,
        notes=skipped,
    )


def _measure(
    report: OptimizationReport,
    pair: tuple[LoadedVersion, LoadedVersion],
    given: ExampleSets,
    seconds: float,
    progress: Progress,
) -> None:
    old, new = pair
    watch = partial(progress.over, "measuring")
    report.latency_ms = timing.measure_latency((old.engine, new.engine), timing.batch_sizes(new), seconds, watch)
    if old.takes_images:
        report.prepare_ms = timing.measure_preprocessing(old, new, given.validation.rows)


def _rejection_reason(new: LoadedVersion, report: OptimizationReport, wishes: OptimizeOptions) -> str:
    """Why it is not to be had: it answers otherwise, fails the check of a worker, or is not faster."""
    found = report.agreement
    if found and found.share < wishes.min_agreement:
        words = f"{found.share:.1%} of {found.rows} answers agree with version {report.made_from}'s"
        return f"{words}; allowed: {wishes.min_agreement:.1%} or more (--min-agreement)"
    checked = check(ModelPath(new.folder.onnx, new.folder), (), wishes.provider, None, SEED)
    if checked.reason:
        return f"it fails `jitney models check`: {checked.reason}"
    return _no_gain_reason(report, wishes) if wishes.seconds else ""


def _no_gain_reason(report: OptimizationReport, wishes: OptimizeOptions) -> str:
    """Why it is not worth its place: written, it would take over."""
    if not report.latency_ms:
        if not wishes.min_gain:
            return ""
        unmeasured = "its speed cannot be measured, for its inputs have open dimensions or zeros do not run"
        return f"{unmeasured}; --no-measure writes it all the same"
    if report.gain >= wishes.min_gain:
        return ""
    asked = f"allowed: {wishes.min_gain:g} x or more (--min-gain; differences below 5 % may be chance)"
    return f"it is not faster here: {report.gain:.2f} x the throughput of version {report.made_from}; {asked}"


def _publish(version: Path, report: OptimizationReport, old: LoadedVersion) -> None:
    """With a record of how it was made beside the file; raises OSError."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    record = {"made_at": now, "made_from_sha256": model_digest(old.folder.onnx), **report.as_json()}
    del record["reason"], record["written"], record["version"]
    (version / publish_version.RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    place = publish_version.publish(version, old.folder.path)
    report.version, report.written = place.name, str(place)
