"""Optimizes a model: builds a version, checks, compares and measures it, and then publishes it."""

import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from batching.collation import stack_items
from cli.models.check import check
from cli.models.errors import ModelPathNotFound
from cli.models.model_paths import ModelPath
from cli.models.optimizing import publish_version
from cli.models.optimizing.evaluation import agreement, calibration_data, timing
from cli.models.optimizing.evaluation.calibration_data import Examples, Track
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion, open_version
from cli.models.optimizing.evaluation.report import OptimizationReport
from cli.models.optimizing.options import MIN_EXAMPLES, OptimizeOptions
from cli.models.optimizing.passes import fold_preprocessing, fp16, int8, int8_weights, onnx_graphs
from cli.models.optimizing.progress import Progress
from model_runtime.profiling.batch_consistency import SEED
from model_runtime.profiling.profile_store import model_digest
from model_runtime.repository.repository import ONNX_FILE, ModelFolder
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, read_spec
from model_runtime.tasks.examples import EXAMPLES_FOLDER


class ExampleSets(NamedTuple):
    """The examples for calibration, or None, and those for comparison."""

    calibration: Examples | None
    validation: Examples


def optimize(folder: ModelFolder, options: OptimizeOptions, progress: Progress) -> OptimizationReport:
    """Optimize a version; if it is refused, the report has the reason. Raises ModelError, ModelPathNotFound."""
    old = open_version(folder, options.provider, options.threads)
    if not old.engine.batchable:
        reason = f"cannot be batched: {old.engine.batch_note}; `jitney models doctor` shows whether that can be fixed"
        raise ModelError(folder.onnx, None, reason)
    if options.fold:
        fold_preprocessing.check_foldable(old)
    examples = _load_example_sets(old, options, progress)
    with publish_version.staging_folder(folder.path) as staging:
        version = staging / "version"
        version.mkdir()
        notes = _build_version(old, options, examples.calibration, version / ONNX_FILE, progress)
        new = _open_new_version(old, version, options)
        report = _start_report(old, new, options, examples)
        report.notes += notes
        report.agreement = agreement.compare_versions(
            old, new, examples.validation, partial(progress.track, "comparing answers")
        )
        if options.seconds:
            _measure(report, (old, new), examples, options.seconds, progress)
        report.reason = _rejection_reason(new, report, options)
        if options.write and not report.reason:
            _publish(version, report, old)
    return report


def _load_example_sets(old: LoadedVersion, options: OptimizeOptions, progress: Progress) -> ExampleSets:
    """Load the examples; calibration and comparison never share any. Raises ModelError if there are too few."""
    track = partial(progress.track, "reading files")
    calibration = validation = None
    own = old.folder.path / EXAMPLES_FOLDER
    if options.calibrate is not None:
        calibration = calibration_data.load_examples(options.calibrate, old, "--calibrate", track)
    elif options.precision == "int8" and own.is_dir():
        calibration = _load_own_examples(own, old, track, MIN_EXAMPLES)
    elif options.precision == "int8":
        what = f"a folder of {MIN_EXAMPLES} or more examples of real inputs (images, or .npz files for tensor models)"
        message = f"--int8 needs --calibrate FOLDER: {what}, or these in {own}"
        raise ModelPathNotFound(message)
    if options.validate is not None:
        validation = calibration_data.load_examples(options.validate, old, "--validate", track)
    elif own.is_dir() and (calibration is None or options.calibrate is not None):
        validation = _load_own_examples(own, old, track, 1)
    elif calibration is not None:
        calibration, validation = calibration_data.split_examples(calibration)
    return ExampleSets(calibration, validation or calibration_data.make_synthetic_examples(old))


def _load_own_examples(folder: Path, old: LoadedVersion, track: Track, minimum: int) -> Examples:
    """Load the examples of the model's folder. Raises ModelError for a bad file."""
    examples = calibration_data.load_examples(folder, old, "examples", track, minimum)
    if examples.skipped:
        raise ModelError(folder, None, examples.skipped[0])
    return examples


def _build_version(
    old: LoadedVersion, options: OptimizeOptions, calibration: Examples | None, target: Path, progress: Progress
) -> list[str]:
    """Apply the selected passes; each reads a file and writes the next. Return notes. Raises ModelError, OSError."""
    folder = target.parent.parent
    title, notes = old.folder.onnx, list[str]()
    model = onnx_graphs.read(title)
    if options.precision in {"int8", "int8-weights"}:
        model = onnx_graphs.upgrade_opset(model, int8.MIN_OPSET, title)
    path = onnx_graphs.save(model, folder / "read.onnx")
    simplify = options.graph and not onnx_graphs.is_half(model)
    if simplify or options.precision == "int8":
        path = onnx_graphs.simplify(path, folder / "simplified.onnx", optimize=simplify)
    if options.graph and not simplify:
        notes.append("not simplified: it is FP16, and ONNX Runtime would convert its weights to FP32")
    if options.precision == "fp16":
        fp16.write(path, folder / "half.onnx", title)
        path = folder / "half.onnx"
    if options.precision == "int8" and calibration is not None:
        rows = (example(old.task) for example in progress.track("calibrating", calibration.rows))
        feeds = (old.engine.arrange(stack_items([row])) for row in rows)
        notes += int8.write(path, folder / "eight.onnx", title, feeds, old.engine.provider)
        path = folder / "eight.onnx"
    if options.precision == "int8-weights":
        notes += int8_weights.write(path, folder / "weights.onnx", title)
        path = folder / "weights.onnx"
    if options.fold:
        fold_preprocessing.write(path, folder / "folded.onnx", old)
        (target.parent / SPEC_FILE).write_text(fold_preprocessing.folded_spec(old), encoding="utf-8")
        path = folder / "folded.onnx"
    elif (old.folder.onnx.parent / SPEC_FILE).exists():  # the new version keeps the settings of the original version
        (target.parent / SPEC_FILE).write_bytes((old.folder.onnx.parent / SPEC_FILE).read_bytes())
    path.rename(target)
    return notes


def _open_new_version(old: LoadedVersion, version: Path, options: OptimizeOptions) -> LoadedVersion:
    """Open the new version as a worker does. Raises ModelError if its inputs or outputs changed."""
    spec = read_spec(version.parent.parent, str(version.relative_to(version.parent.parent)))
    folder = old.folder._replace(onnx=version / ONNX_FILE, spec=spec)
    new = open_version(folder, options.provider, options.threads)
    if new.engine.outputs != old.engine.outputs or (not options.fold and new.engine.inputs != old.engine.inputs):
        specs = [spec.card() for spec in (*new.engine.inputs, *new.engine.outputs)]
        raise ModelError(old.folder.onnx, None, f"optimization changed its inputs or outputs: {specs}")
    return new


def _start_report(
    old: LoadedVersion, new: LoadedVersion, options: OptimizeOptions, examples: ExampleSets
) -> OptimizationReport:
    skipped = [*(examples.calibration.skipped if examples.calibration else ()), *examples.validation.skipped]
    return OptimizationReport(
        old.folder.name,
        old.folder.version,
        options.summary,
        device=new.engine.device,
        runtime=new.engine.runtime,
        bytes_old=old.size_bytes,
        bytes_new=new.size_bytes,
        calibrated_with=examples.calibration.what if examples.calibration else "",
        min_agreement=options.min_agreement,
        notes=skipped,
    )


def _measure(
    report: OptimizationReport,
    pair: tuple[LoadedVersion, LoadedVersion],
    examples: ExampleSets,
    seconds: float,
    progress: Progress,
) -> None:
    old, new = pair
    track = partial(progress.track, "measuring")
    report.latency_ms = timing.measure_latency((old.engine, new.engine), timing.batch_sizes(new), seconds, track)
    if old.takes_images:
        report.prepare_ms = timing.measure_preprocessing(old, new, examples.validation.rows)


def _rejection_reason(new: LoadedVersion, report: OptimizationReport, options: OptimizeOptions) -> str:
    """Return why a version is refused: less agreement, a failed batch check, or too little gain. Empty: accepted."""
    compared = report.agreement
    if compared and compared.share < options.min_agreement:
        share = f"{compared.share:.1%} of {compared.rows} outputs agree with version {report.made_from}"
        return f"{share}; allowed: {options.min_agreement:.1%} or more (--min-agreement)"
    checked = check(ModelPath(new.folder.onnx, new.folder), (), options.provider, None, SEED)
    if checked.failure:
        return f"it fails `jitney models check`: {checked.failure}"
    return _no_gain_reason(report, options) if options.seconds else ""


def _no_gain_reason(report: OptimizationReport, options: OptimizeOptions) -> str:
    """Return why a version has too little gain, or empty; once published, workers would serve it."""
    if not report.latency_ms:
        if not options.min_gain:
            return ""
        unmeasured = "its speed cannot be measured: its inputs have open dimensions, or zeros do not run"
        return f"{unmeasured}; --no-measure skips the measurement"
    if report.gain >= options.min_gain:
        return ""
    limit = f"allowed: {options.min_gain:g} x or more (--min-gain; differences below 5 % may be noise)"
    return f"it is not faster here: {report.gain:.2f} x the throughput of version {report.made_from}; {limit}"


def _publish(version: Path, report: OptimizationReport, old: LoadedVersion) -> None:
    """Write optimized.json into the version and publish it. Raises OSError."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    record = {"made_at": now, "made_from_sha256": model_digest(old.folder.onnx), **report.as_json()}
    del record["reason"], record["written"], record["version"]
    (version / publish_version.RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    place = publish_version.publish(version, old.folder.path)
    report.version, report.written = place.name, str(place)
