"""Creates the folder of an imported model: writes it aside, makes it batchable, checks it, moves it into place."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cli.models.doctor import examine
from cli.models.importing.source import Fetch, ImportedModel, ImportFailed, ImportRequest
from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.engine.open_engine import tensor_keys
from model_runtime.model import check_text
from model_runtime.repository.path_checks import check_folder
from model_runtime.repository.repository import NAME, ONNX_FILE, BrokenModel, list_models
from model_runtime.spec.model_toml import SPEC_FILE, ModelError
from model_runtime.tasks import TextTask, attach_task

LABELS_FILE: Final = "labels.txt"


def import_model(
    fetch: Fetch, request: ImportRequest, models_dir: Path, name: str, *, as_it_is: bool = False
) -> tuple[Path, list[str]]:
    """Import a model; return its folder and notes. Raises ImportFailed, ModelError, OSError, leaving no files.

    `as_it_is`: accept a model that cannot be batched, which then runs one job at a time.
    """
    place = models_dir / name
    if not NAME.fullmatch(name):
        raise ImportFailed(
            f"{name[:80]!r} is not a model name; allowed: 1 to 64 letters, digits, '.', '_' and '-' (--name)"
        )
    if place.exists() or place.is_symlink():
        raise ImportFailed(f"{place} already exists; allowed: another --name, or remove that folder first")
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".jitney-import-", dir=models_dir) as temporary:
        folder = Path(temporary) / name
        onnx = folder / "1" / ONNX_FILE
        onnx.parent.mkdir(parents=True)
        imported = fetch(request, onnx)
        notes = _make_batchable(onnx, as_it_is=as_it_is)
        _write(folder, imported)
        used = _check_loads(folder)
        folder.rename(place)
    return place, [f"task = {json.dumps(imported.task)}", *used, *notes, *imported.notes]


def _make_batchable(onnx: Path, *, as_it_is: bool) -> list[str]:
    """Fix the file if it cannot be batched; return notes. Raises ImportFailed."""
    result = examine(onnx, None)
    if result.good:
        return []
    fixed = onnx.with_name("fixed.onnx")
    result = examine(onnx, fixed)
    if result.good:
        for old in onnx.parent.iterdir():  # the fixed file contains external weights
            if old != fixed:
                old.unlink()
        fixed.rename(onnx)
        return ["its fixed batch size was removed by jitney models doctor"]
    reasons = "; ".join(line.strip() for line in result.lines[1:]) or result.lines[0].rpartition(": ")[2]
    if not as_it_is:
        raise ImportFailed(f"it cannot be batched ({reasons}); --as-it-is imports it, to run one job at a time")
    return [f"it runs one job at a time: {reasons}"]


def _write(folder: Path, imported: ImportedModel) -> None:
    tables: dict[str, Mapping[str, Any]] = {"image": imported.image, "classification": imported.classification}
    if imported.labels is not None:
        (folder / LABELS_FILE).write_text("\n".join(imported.labels) + "\n", encoding="utf-8")
        tables["classification"] = {"labels": LABELS_FILE, **imported.classification}
    for name, source in imported.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, folder / name)
    lines = [f"task = {json.dumps(imported.task)}", f"description = {json.dumps(imported.description)}"]
    lines += [f"outputs = {_toml_value(imported.outputs)}"] if imported.outputs else []
    for title, table in tables.items():
        if table:
            lines += [f"[{title}]", *(f"{key} = {_toml_value(value)}" for key, value in table.items())]
    (folder / SPEC_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value)  # strings, numbers and booleans look the same in both


def _check_loads(folder: Path) -> Sequence[str]:
    """Load the model as a worker does; return the settings that are not in model.toml. Raises ModelError."""
    (listed,) = list_models(folder.parent, [folder.name])
    if isinstance(listed, BrokenModel):
        raise ModelError(folder.name, None, listed.reason)
    check_folder(listed.path, listed.onnx)
    engine = OnnxEngine(listed.onnx, "cpu", listed.spec.threads, keys=tensor_keys(listed))
    task = attach_task(listed, engine)
    if isinstance(task, TextTask):
        check_text(listed, engine, task)
    return task.from_file
