"""From the file there is to the optimized one: each kind of optimization reads a file and writes the next."""

from pathlib import Path

from scripts.models.optimizing import eight, folding, graphs, half
from scripts.models.optimizing.examples import Examples
from scripts.models.optimizing.progress import Progress
from scripts.models.optimizing.served import Served
from scripts.models.optimizing.wishes import Wishes
from worker.models.spec import SPEC_FILE


def make(old: Served, wishes: Wishes, calibration: Examples | None, target: Path, progress: Progress) -> list[str]:
    """From one file to the next, beside the target's folder; gives what is to be said. Raises ModelError, OSError."""
    room = target.parent.parent
    title, notes = old.folder.onnx, list[str]()
    model = graphs.read(title)
    if wishes.precision == "int8":
        model = graphs.raised(model, eight.LEAST_OPSET, title)
    path = graphs.save(model, room / "read.onnx")
    simplify = wishes.graph and not graphs.is_half(model)
    if simplify or wishes.precision == "int8":
        path = graphs.simplified(path, room / "simplified.onnx", optimize=simplify)
    if wishes.graph and not simplify:
        notes.append("not simplified: it is FP16, and ONNX Runtime would write its weights as FP32 on the way")
    if wishes.precision == "fp16":
        half.write(path, room / "half.onnx", title)
        path = room / "half.onnx"
    if wishes.precision == "int8" and calibration is not None:
        rows = (example(old.task) for example in progress.over("calibrating", calibration.rows))
        notes += eight.write(path, room / "eight.onnx", title, rows, old.engine.provider)
        path = room / "eight.onnx"
    if wishes.fold:
        folding.write(path, room / "folded.onnx", old)
        (target.parent / SPEC_FILE).write_text(folding.own_spec(old), encoding="utf-8")
        path = room / "folded.onnx"
    elif (old.folder.onnx.parent / SPEC_FILE).exists():  # what the version before says of itself holds for this one
        (target.parent / SPEC_FILE).write_bytes((old.folder.onnx.parent / SPEC_FILE).read_bytes())
    path.rename(target)
    return notes
