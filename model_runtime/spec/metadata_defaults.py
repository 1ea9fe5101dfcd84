"""Fill keys that `model.toml` leaves out from the metadata of the ONNX file; refuse a file that is for another task.

Ultralytics (YOLOv5 and later) writes `names`, `stride`, `imgsz` and `task` as texts of Python values. RapidAI's
converters of PaddleOCR write `character` or `dictionary`, a label per line. Keys of `model.toml` go first.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple

from model_runtime.spec.image import SIDE_LIMIT, ImageSpec
from model_runtime.spec.model_toml import ModelError, ModelSpec
from model_runtime.tensor_spec import TensorSpec

MAX_TEXT_CHARS: Final = 1 << 20
MAX_LABELS: Final = 100_000
_TASKS: Final = {"detect": "object-detection", "classify": "image-classification"}
_OTHER_TASKS: Final = ("segment", "pose", "obb")
_LABELED: Final = ("image-classification", "image-segmentation", "object-detection")
_LINES: Final = ("character", "dictionary")
_GRAY: Final = (114, 114, 114)  # the padding of Ultralytics
_SELECTED: Final = 6  # numbers of a box that the model has selected


class FileDefaults(NamedTuple):
    """`spec`: with what the file says; `labels`: of the classes, () if unknown; `used`: a line for each, for people."""

    spec: ModelSpec
    labels: Sequence[str] = ()
    used: Sequence[str] = ()


def fill_from_file(
    spec: ModelSpec,
    metadata: Mapping[str, str],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    file: Path,
) -> FileDefaults:
    """Fill what `model.toml` leaves out. `file`: the model.toml, for messages.

    Raises ModelError if the file is for another task.
    """
    if spec.task not in _LABELED or len(inputs) != 1 or not outputs:
        return FileDefaults(spec)
    labels, key = _read_labels(metadata, spec.task, outputs[0])
    used = [f"{len(labels)} labels of {key}"] if labels and _section(spec).labels is None else []
    # YOLOv5 writes no task, and prepares the pictures of its classifiers in another way than later versions.
    assumed = "detect" if spec.task == "object-detection" else ""
    ultralytics = metadata.get("task", assumed) if {"names", "stride"} <= metadata.keys() else ""
    if ultralytics in _OTHER_TASKS or _TASKS.get(ultralytics, spec.task) != spec.task:
        allowed = f'"{_TASKS[ultralytics]}"' if ultralytics in _TASKS else '"tensor", or a task of your own'
        raise ModelError(
            file, "task", f'"{spec.task}", but the file says that it is for {ultralytics}; allowed: {allowed}'
        )
    changes: dict[str, Any] = {}
    if ultralytics in _TASKS:
        size = _read_size(metadata)
        if (image := _image(spec, ultralytics, size, inputs[0])) is not None:
            changes["image"] = image
            used.append(f"[image] {_shown(image)}")
        if ultralytics == "detect" and "format" not in spec.detection.model_fields_set:
            form = _format(len(labels), has_task="task" in metadata, shape=outputs[0].shape)
            changes["detection"] = spec.detection.model_copy(update={"format": form})
            used.append(f"[detection] format = {json.dumps(form)}")
        if ultralytics == "classify" and "softmax" not in spec.classification.model_fields_set:
            changes["classification"] = spec.classification.model_copy(update={"softmax": False})
            used.append("[classification] softmax = false")
    return FileDefaults(spec.model_copy(update=changes), labels, used)


def _section(spec: ModelSpec) -> Any:
    return {"image-classification": spec.classification, "object-detection": spec.detection}.get(
        spec.task, spec.segmentation
    )


def _read_labels(metadata: Mapping[str, str], task: str, output: TensorSpec) -> tuple[tuple[str, ...], str]:
    """Return the labels and the key that has them."""
    if names := _names(metadata):
        return names, "names"
    for key in _LINES:
        lines = tuple(metadata.get(key, "")[:MAX_TEXT_CHARS].splitlines())
        # Recognizers of text have them too, for characters; only a classifier has as many outputs.
        if task == "image-classification" and lines and prod(output.shape) == len(lines) <= MAX_LABELS:
            return lines, key
    return (), ""


def _names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the labels of Ultralytics: a list, or a dict by their numbers; () if there are none."""
    names = _literal(metadata.get("names", ""))
    if isinstance(names, dict) and names.keys() == {*range(len(names))}:
        names = [names[number] for number in range(len(names))]
    if isinstance(names, list | tuple) and 0 < len(names) <= MAX_LABELS and all(type(name) is str for name in names):
        return tuple(name.strip() for name in names)
    return ()


def _read_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Return height and width."""
    size = _literal(metadata.get("imgsz", ""))
    sides = [size, size] if type(size) is int else size
    if isinstance(sides, list | tuple) and len(sides) == 2 and all(type(side) is int for side in sides):
        height, width = sides
        return (height, width) if 1 <= height <= SIDE_LIMIT and 1 <= width <= SIDE_LIMIT else None
    return None


def _literal(text: str) -> Any:
    """Return the value of a Python literal; None if it is none, or too long."""
    if len(text) > MAX_TEXT_CHARS:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # as it is documented
        return None


def _image(spec: ModelSpec, kind: str, size: tuple[int, int] | None, pixels: TensorSpec) -> ImageSpec | None:
    """Return `[image]` as Ultralytics prepares pictures; if it has keys, with a size alone. None: it stays."""
    image = spec.image
    if len(pixels.shape) != 3 or pixels.shape[0] not in {-1, 1, 3}:
        return None
    channels, height, width = pixels.shape
    is_free = -1 in {height, width}
    if written := image.model_fields_set - {"max_pixels"}:
        needs_size = is_free and size is not None and not written & {"resize", "crop", "preset"}
        return image.model_copy(update={"resize": size}) if needs_size else None
    size = size if is_free else (height, width)
    keys: dict[str, Any] = {"max_pixels": image.max_pixels, "color": "gray" if channels == 1 else "RGB"}
    if pixels.datatype != "UINT8":
        keys["scale"] = 1 / 255
    if size is None:
        return None
    if kind == "classify":
        return ImageSpec(resize=min(size), crop=size, **keys) if size[0] == size[1] else None
    return ImageSpec(resize=size, fit="letterbox", background=_GRAY, **keys)


def _shown(image: ImageSpec) -> str:
    """Return the keys that differ from the defaults, about as TOML."""
    keys = image.model_dump(exclude_defaults=True, exclude={"max_pixels"})
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in keys.items()}
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())


def describe_metadata(metadata: Mapping[str, str]) -> str:
    """Return what a file says in one line for people; empty if it says nothing that is used."""
    names, size = _names(metadata), _read_size(metadata)
    lines = [f"{len(metadata[key].splitlines())} lines of {key}" for key in _LINES if key in metadata]
    said = [f"{len(names)} labels of names"] if names else lines
    said += [f"a size of {size[0]} x {size[1]}"] if size else []
    task = _TASKS.get(metadata.get("task", "")) if {"names", "stride"} <= metadata.keys() else None
    needed = [f'with task = "{task}" model.toml needs no other key'] if task and size else []
    return "; ".join(filter(None, [", ".join(said), *needed]))


def _format(classes: int, *, has_task: bool, shape: tuple[int, ...]) -> str:
    """Return the format of an Ultralytics detector's output: YOLOv5 says no task, and has scores last."""
    if len(shape) == 2 and has_task:
        return "box-score-class" if shape[1] == _SELECTED else "yolo"
    return "yolo-objectness" if len(shape) == 2 and shape[1] == 5 + classes else "yolo"
