"""The folder that an imported model becomes: written aside, tried, and moved into its place as a whole."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cli.models.doctor.command import examine
from cli.models.importing.source import Fetch, ImportedModel, ImportFailed, ImportRequest
from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.repository.path_checks import check_folder
from model_runtime.repository.repository import NAME, ONNX_FILE, BrokenModel, list_models
from model_runtime.spec.model_toml import SPEC_FILE, ModelError
from model_runtime.tasks import load_task

LABELS_FILE: Final = "labels.txt"


def import_model(
    fetch: Fetch, wanted: ImportRequest, models_dir: Path, name: str, *, as_it_is: bool = False
) -> tuple[Path, list[str]]:
    """Import; gives the folder and what there is to say. Raises NotImported, ModelError, OSError, and leaves nothing.

    `as_it_is`: also a model that can not be batched, which is served one job at a time.
    """
    place = models_dir / name
    if not NAME.fullmatch(name):
        raise ImportFailed(f"{name[:80]!r} is no name; allowed: 1 to 64 letters, digits, '.', '_' and '-' (--name)")
    if place.exists() or place.is_symlink():
        raise ImportFailed(f"{place} is there already; allowed: another --name")
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".jitney-import-", dir=models_dir) as room:
        folder = Path(room) / name
        onnx = folder / "1" / ONNX_FILE
        onnx.parent.mkdir(parents=True)
        imported = fetch(wanted, onnx)
        said = _make_batchable(onnx, as_it_is=as_it_is)
        _write(folder, imported)
        _check_loads(folder)
        folder.rename(place)
    return place, [*said, *imported.notes]


def _make_batchable(onnx: Path, *, as_it_is: bool) -> list[str]:
    """Mend it where that is sound; what the doctor says of it."""
    answer = examine(onnx, None)
    if answer.good:
        return []
    mended = onnx.with_name("mended.onnx")
    answer = examine(onnx, mended)
    if answer.good:
        for old in onnx.parent.iterdir():  # weights beside it are within it now
            if old != mended:
                old.unlink()
        mended.rename(onnx)
        return ["its batch was fixed: mended by jitney models doctor"]
    reasons = "; ".join(line.strip() for line in answer.lines[1:]) or answer.lines[0].rpartition(": ")[2]
    if not as_it_is:
        raise ImportFailed(f"it can not be batched ({reasons}); --as-it-is imports it, to run one job at a time")
    return [f"it runs one job at a time: {reasons}"]


def _write(folder: Path, imported: ImportedModel) -> None:
    tables: dict[str, Mapping[str, Any]] = {"image": imported.image, "classification": imported.classification}
    if imported.labels is not None:
        (folder / LABELS_FILE).write_text("\n".join(imported.labels) + "\n", encoding="utf-8")
        tables["classification"] = {"labels": LABELS_FILE, **imported.classification}
    lines = [f"task = {json.dumps(imported.task)}", f"description = {json.dumps(imported.description)}"]
    for title, table in tables.items():
        if table:
            lines += [f"[{title}]", *(f"{key} = {_toml_value(value)}" for key, value in table.items())]
    (folder / SPEC_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value)  # of texts, numbers and truths both have the same form


def _check_loads(folder: Path) -> None:
    """As a worker would load it; raises ModelError."""
    (found,) = list_models(folder.parent, [folder.name])
    if isinstance(found, BrokenModel):
        raise ModelError(folder.name, None, found.reason)
    check_folder(found.path, found.onnx)
    engine = OnnxEngine(found.onnx, "cpu", found.spec.threads)
    load_task(found.spec, found.path, engine.inputs, engine.outputs)
