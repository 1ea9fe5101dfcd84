"""`hf:REPO@REVISION`: imports an ONNX file from Hugging Face, with its preprocessor_config.json."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cli.models.importing.source import ImportedModel, ImportFailed, ImportRequest, import_library, one_line

_DEFAULT_FILES: Final = ("model.onnx", "onnx/model.onnx")
_FILTERS: Final = (
    "nearest",
    "lanczos",
    "bilinear",
    "bicubic",
    "box",
    "hamming",
)  # indexed by Pillow's resampling constants
_WEIGHT_SUFFIXES: Final = ("_data", ".data")  # of files with external weights


def fetch(request: ImportRequest, onnx: Path) -> ImportedModel:
    """Download the file, its external weights and its configuration. Raises ImportFailed."""
    repo, _, revision = request.name.partition("@")
    if not revision:
        raise ImportFailed(f"name a revision of {repo}, preferably a commit: hf:{repo}@main")
    hub = import_library("huggingface_hub")
    import_library("huggingface_hub.utils").logging.set_verbosity_error()  # errors are reported below
    try:
        files = hub.HfApi().list_repo_files(repo, revision=revision)
        file = _choose_file(repo, files, request.file)
        shutil.copyfile(hub.hf_hub_download(repo, file, revision=revision), onnx)
        for end in _WEIGHT_SUFFIXES:
            if f"{file}{end}" in files:
                weights = Path(f"{file}{end}").name  # the ONNX file refers to this name
                shutil.copyfile(hub.hf_hub_download(repo, f"{file}{end}", revision=revision), onnx.parent / weights)
        config, preprocessor = (
            json.loads(Path(hub.hf_hub_download(repo, name, revision=revision)).read_text("utf-8"))
            if name in files
            else {}
            for name in ("config.json", "preprocessor_config.json")
        )
    except ImportFailed:
        raise
    except Exception as error:  # of its HTTP client, of the hub, of JSON
        raise ImportFailed(f"cannot download {repo}@{revision}: {one_line(error)}") from error
    description = f"{file} of {repo} at {revision}"
    if not preprocessor:
        note = "it has no preprocessor_config.json and takes tensors; for images, add [image] to model.toml"
        return ImportedModel("tensor", description, notes=[note])
    return ImportedModel("image-classification", description, _image_section(preprocessor), {}, _labels(config))


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
