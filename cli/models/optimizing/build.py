"""Builds the optimized file: applies the selected passes, each of which reads a file and writes the next."""

from pathlib import Path

from cli.models.optimizing.evaluation.calibration_data import Examples
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion
from cli.models.optimizing.options import OptimizeOptions
from cli.models.optimizing.passes import fold_preprocessing, fp16, int8, int8_weights, onnx_graphs
from cli.models.optimizing.progress import Progress
from model_runtime.spec.model_toml import SPEC_FILE


def build_version(
    old: LoadedVersion, options: OptimizeOptions, calibration: Examples | None, target: Path, progress: Progress
) -> list[str]:
    """Run the passes in the folder above the target; return notes. Raises ModelError, OSError."""
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
        notes += int8.write(path, folder / "eight.onnx", title, rows, old.engine.provider)
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
