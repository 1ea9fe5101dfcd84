"""`hf:REPO@REVISION`: an ONNX file of a repository on a hub, prepared for as its preprocessor_config.json says."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cli.models.importing.source import ImportedModel, ImportFailed, ImportRequest, import_library, one_line

_DEFAULT_FILES: Final = ("model.onnx", "onnx/model.onnx")
_FILTERS: Final = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by PIL's numbers
_WEIGHT_SUFFIXES: Final = ("_data", ".data")  # of a file whose weights lie beside it


def fetch(wanted: ImportRequest, onnx: Path) -> ImportedModel:
    """Download the file, what lies beside it, and what says how it is fed."""
    repo, _, revision = wanted.name.partition("@")
    if not revision:
        raise ImportFailed(f"name a revision of {repo}, best a commit, which stays what it is: hf:{repo}@main")
    hub = import_library("huggingface_hub")
    import_library("huggingface_hub.utils").logging.set_verbosity_error()  # what goes wrong is told by us, once
    try:
        files = hub.HfApi().list_repo_files(repo, revision=revision)
        file = _choose_file(repo, files, wanted.file)
        shutil.copyfile(hub.hf_hub_download(repo, file, revision=revision), onnx)
        for end in _WEIGHT_SUFFIXES:
            if f"{file}{end}" in files:
                beside = Path(f"{file}{end}").name  # by the name that the file points at
                shutil.copyfile(hub.hf_hub_download(repo, f"{file}{end}", revision=revision), onnx.parent / beside)
        config, how = (
            json.loads(Path(hub.hf_hub_download(repo, name, revision=revision)).read_text("utf-8"))
            if name in files
            else {}
            for name in ("config.json", "preprocessor_config.json")
        )
    except ImportFailed:
        raise
    except Exception as error:  # of its HTTP client, of its own, of JSON
        raise ImportFailed(f"{repo}@{revision} can not be had: {one_line(error)}") from error
    description = f"{file} of {repo} at {revision}"
    if not how:
        note = "there is no preprocessor_config.json: it takes tensors, until model.toml says how images are made"
        return ImportedModel("tensor", description, notes=[note])
    return ImportedModel("image-classification", description, _image_section(how), {}, _labels(config))


def _choose_file(repo: str, files: Sequence[str], asked: str | None) -> str:
    found = [name for name in files if name.endswith(".onnx")]
    if not found:
        raise ImportFailed(f"{repo} has no .onnx file; allowed: a repository with one, or an export of your own")
    usual = [asked] if asked else [name for name in _DEFAULT_FILES if name in found] or found
    if (asked and asked not in found) or (len(usual) > 1 and usual[0] not in _DEFAULT_FILES):
        raise ImportFailed(f"{repo} has {', '.join(found)}; allowed: --file with one of them")
    return usual[0]


def _image_section(how: Mapping[str, Any]) -> dict[str, Any]:
    """Its words in ours."""
    size, crop = _sides(how.get("size", 224)), _sides(how.get("crop_size"))
    image: dict[str, Any] = {"resize": size}
    if how.get("do_center_crop") and crop:
        image["crop"] = crop
    resample = how.get("resample", 2)
    image["filter"] = _FILTERS[resample] if resample in range(len(_FILTERS)) else "bilinear"
    image["scale"] = float(how.get("rescale_factor", 1 / 255)) if how.get("do_rescale", True) else 1.0
    if how.get("do_normalize", True):
        for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
            if theirs in how:
                image[ours] = [float(part) for part in how[theirs]]
    return image


def _sides(size: Any) -> Any:
    """A shorter side, or [height, width]."""
    if isinstance(size, Mapping):
        return size["shortest_edge"] if "shortest_edge" in size else [size["height"], size["width"]]
    return [size, size] if isinstance(size, int) else size


def _labels(config: Mapping[str, Any]) -> list[str] | None:
    names = config.get("id2label")
    return [str(names[key]) for key in sorted(names, key=int)] if names else None
