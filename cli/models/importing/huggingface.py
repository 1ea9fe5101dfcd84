"""`hf:REPO@REVISION`, or a folder: imports an ONNX file in the layout of Hugging Face, with the files that it needs."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from cli.models.importing.hf_repository import Repository, open_folder, open_hub
from cli.models.importing.hf_text_models import read_text_model
from cli.models.importing.source import ImportedModel, ImportFailed, ImportRequest, one_line
from model_runtime.spec.text import POOLING_FILE, TEXT_TASKS

_DEFAULT_FILES: Final = ("model.onnx", "onnx/model.onnx")
_FILTERS: Final = (
    "nearest",
    "lanczos",
    "bilinear",
    "bicubic",
    "box",
    "hamming",
)  # indexed by Pillow's resampling constants
_PREPROCESSOR: Final = "preprocessor_config.json"
_TEXT_ONLY_FILES: Final = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
)
_WEIGHT_SUFFIXES: Final = ("_data", ".data")  # of files with external weights


def fetch_repository(request: ImportRequest, onnx: Path) -> ImportedModel:
    """Download the file, its external weights and the other files that it needs. Raises ImportFailed."""
    return _fetch(open_hub, request, onnx, f"cannot download {request.name}")


def fetch_folder(request: ImportRequest, onnx: Path) -> ImportedModel:
    """Copy the same from a folder that has the layout of a repository. Raises ImportFailed."""
    return _fetch(open_folder, request, onnx, f"cannot read {request.name}")


def _fetch(open_: Callable[[str], Repository], request: ImportRequest, onnx: Path, failure: str) -> ImportedModel:
    try:
        repository = open_(request.name)
        file = _choose_file(repository.name, sorted(repository.files), request.file)
        shutil.copyfile(repository.get(file), onnx)
        for end in _WEIGHT_SUFFIXES:
            if f"{file}{end}" in repository.files:
                weights = Path(f"{file}{end}").name  # the ONNX file refers to this name
                shutil.copyfile(repository.get(f"{file}{end}"), onnx.parent / weights)
        return _describe(repository, file, onnx, request.task)
    except ImportFailed:
        raise
    except Exception as error:  # of its HTTP client, of the hub, of files, of JSON
        raise ImportFailed(f"{failure}: {one_line(error)}") from error


def _describe(repository: Repository, file: str, onnx: Path, task: str | None) -> ImportedModel:
    """Return what model.toml says of a model for images or for text, or else of one that takes tensors."""
    if task in TEXT_TASKS or (task is None and _PREPROCESSOR not in repository.files and _is_for_text(repository)):
        return read_text_model(repository, file, onnx, task)
    description = f"{file} of {repository.description}"
    if task is not None or _PREPROCESSOR not in repository.files:
        note = f"it has no {_PREPROCESSOR} and takes tensors; for images, add [image] to model.toml"
        return ImportedModel("tensor", description, notes=[note] if task is None else [])
    config, preprocessor = (
        json.loads(repository.get(name).read_text("utf-8")) if name in repository.files else {}
        for name in ("config.json", _PREPROCESSOR)
    )
    return ImportedModel("image-classification", description, _image_section(preprocessor), {}, _labels(config))


def _is_for_text(repository: Repository) -> bool:
    """Return whether there are files that only models for text have, even if the tokenizer is missing."""
    return any(file == POOLING_FILE or PurePosixPath(file).name in _TEXT_ONLY_FILES for file in repository.files)


def _choose_file(repo: str, files: Sequence[str], requested: str | None) -> str:
    names = [name for name in files if name.endswith(".onnx")]
    if not names:
        raise ImportFailed(f"{repo} has no .onnx file; allowed: a repository that has one, or your own export")
    candidates = [requested] if requested else [name for name in _DEFAULT_FILES if name in names] or names
    if (requested and requested not in names) or (len(candidates) > 1 and candidates[0] not in _DEFAULT_FILES):
        raise ImportFailed(f"{repo} has {', '.join(names)}; allowed: --file with one of them")
    return candidates[0]


def _image_section(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a preprocessor configuration into the [image] table of model.toml."""
    size, crop = _sides(config.get("size", 224)), _sides(config.get("crop_size"))
    image: dict[str, Any] = {"resize": size}
    if config.get("do_center_crop") and crop:
        image["crop"] = crop
    resample = config.get("resample", 2)
    image["filter"] = _FILTERS[resample] if resample in range(len(_FILTERS)) else "bilinear"
    image["scale"] = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    if config.get("do_normalize", True):
        for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
            if theirs in config:
                image[ours] = [float(part) for part in config[theirs]]
    return image


def _sides(size: Any) -> Any:
    """Return the shorter side, or [height, width]."""
    if isinstance(size, Mapping):
        return size["shortest_edge"] if "shortest_edge" in size else [size["height"], size["width"]]
    return [size, size] if isinstance(size, int) else size


def _labels(config: Mapping[str, Any]) -> list[str] | None:
    names = config.get("id2label")
    return [str(names[key]) for key in sorted(names, key=int)] if names else None
