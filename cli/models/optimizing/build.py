"""From the file there is to the optimized one: each kind of optimization reads a file and writes the next."""

from pathlib import Path

from cli.models.optimizing.evaluation.calibration_data import Examples
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion
from cli.models.optimizing.options import OptimizeOptions
from cli.models.optimizing.passes import fold_preprocessing, fp16, int8, onnx_graphs
from cli.models.optimizing.progress import Progress
from model_runtime.spec.model_toml import SPEC_FILE


def build_version(
    old: LoadedVersion, wishes: OptimizeOptions, calibration: Examples | None, target: Path, progress: Progress
) -> list[str]:
    """From one file to the next, beside the target's folder; gives what is to be said. Raises ModelError, OSError."""
    room = target.parent.parent
    title, notes = old.folder.onnx, list[str]()
    model = onnx_graphs.read(title)
    if wishes.precision == "int8":
        model = onnx_graphs.upgrade_opset(model, int8.MIN_OPSET, title)
    path = onnx_graphs.save(model, room / "read.onnx")
    simplify = wishes.graph and not onnx_graphs.is_half(model)
    if simplify or wishes.precision == "int8":
        path = onnx_graphs.simplify(path, room / "simplified.onnx", optimize=simplify)
    if wishes.graph and not simplify:
        notes.append("not simplified: it is FP16, and ONNX Runtime would write its weights as FP32 on the way")
    if wishes.precision == "fp16":
        fp16.write(path, room / "half.onnx", title)
        path = room / "half.onnx"
    if wishes.precision == "int8" and calibration is not None:
        rows = (example(old.task) for example in progress.over("calibrating", calibration.rows))
        notes += int8.write(path, room / "eight.onnx", title, rows, old.engine.provider)
        path = room / "eight.onnx"
    if wishes.fold:
        fold_preprocessing.write(path, room / "folded.onnx", old)
        (target.parent / SPEC_FILE).write_text(fold_preprocessing.folded_spec(old), encoding="utf-8")
        path = room / "folded.onnx"
    elif (old.folder.onnx.parent / SPEC_FILE).exists():  # what the version before says of itself holds for this one
        (target.parent / SPEC_FILE).write_bytes((old.folder.onnx.parent / SPEC_FILE).read_bytes())
    path.rename(target)
    return notes
