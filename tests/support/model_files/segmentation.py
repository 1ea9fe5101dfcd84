"""Segmentation models whose masks are known by construction."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.support.model_files import graphs
from tests.support.model_files.graphs import node

SCENE = """task = "image-segmentation"
[image]
scale = 0.00392156862745098
filter = "nearest"
background = [0, 0, 0]
fit = "{fit}"
[segmentation]
labels = "labels.txt"
"""
LABELS = "nothing\nred thing\ngreen thing"


def colours(models_dir: Path, name: str = "scene", toml: str = SCENE, fit: str = "stretch", cell: int = 2) -> Path:
    """Lay out a model with a score for each class: 0.5 for nothing, and the red and the green of the picture.

    image float32 [N, 3, 16, 24] of 0 to 1 → scores float32 [N, 3, 16 / cell, 24 / cell].
    """
    half = np.full((1, 1, 1, 1), 0.5, np.float32)
    nodes = [
        node("AveragePool", ["image"], ["small"], kernel_shape=[cell, cell], strides=[cell, cell]),
        node("Slice", ["small", "zero", "two", "one"], ["red_green"]),
        node("Slice", ["small", "zero", "one", "one"], ["red"]),
        node("Mul", ["red", "none"], ["empty"]),
        node("Add", ["empty", "half"], ["nothing"]),
        node("Concat", ["nothing", "red_green"], ["scores"], axis=1),
    ]
    constants: dict[str, Any] = {key: graphs.int64_constant(n) for n, key in enumerate(("zero", "one", "two"))}
    constants |= {"half": half, "none": np.zeros_like(half)}
    outputs = {"scores": ["N", 3, 16 // cell, 24 // cell]}
    return _lay_out(models_dir / name, nodes, outputs, constants, toml.replace("{fit}", fit))


def classes(models_dir: Path, name: str = "classes", toml: str = SCENE) -> Path:
    """Lay out a model of classes: 7 where red is above a half, 255 where green is, else 0, as int64 [N, 16, 24]."""
    nodes = [
        *(node("Gather", ["image", f"at{n}"], [f"plane{n}"], axis=1) for n in (0, 1)),
        *(node("Greater", [f"plane{n}", "half"], [f"is{n}"]) for n in (0, 1)),
        node("Where", ["is1", "no_class", "zero"], ["rest"]),
        node("Where", ["is0", "seven", "rest"], ["scores"]),
    ]
    constants: dict[str, Any] = {"half": np.float32(0.5).reshape(())}
    constants |= {"at0": np.array(0), "at1": np.array(1), "seven": np.array(7)}
    constants |= {"no_class": np.array(255), "zero": np.array(0)}
    toml = toml.replace("{fit}", "stretch")
    return _lay_out(models_dir / name, nodes, {"scores": ["N", 16, 24]}, constants, toml)


def foreground(models_dir: Path, name: str, toml: str, *, logits: bool = False) -> Path:
    """Lay out a model of one class: the red of the picture, or its logit, as float32 [N, 1, 16, 24]."""
    steps = [
        node("Clip", ["red", "least", "most"], ["inside"]),
        node("Sub", ["unit", "inside"], ["outside"]),
        node("Div", ["inside", "outside"], ["odds"]),
        node("Log", ["odds"], ["scores"]),
    ]
    nodes = [
        node("Slice", ["image", "zero", "one", "one"], ["red"]),
        *(steps if logits else [node("Identity", ["red"], ["scores"])]),
    ]
    constants: dict[str, Any] = {"zero": graphs.int64_constant(0), "one": graphs.int64_constant(1)}
    if logits:
        constants |= {"least": np.float32(0.001).reshape(()), "most": np.float32(0.999).reshape(())}
        constants |= {"unit": np.float32(1).reshape(())}
    return _lay_out(models_dir / name, nodes, {"scores": ["N", 1, 16, 24]}, constants, toml)


def _lay_out(folder: Path, nodes: Any, outputs: dict[str, list[Any]], constants: dict[str, Any], toml: str) -> Path:
    kinds = {"scores": TensorProto.INT64} if any(each.op_type == "Where" for each in nodes) else {}
    graphs.write(folder / "1" / "model.onnx", nodes, {"image": ["N", 3, 16, 24]}, outputs, constants, kinds=kinds)
    (folder / "labels.txt").write_text(LABELS)
    (folder / "model.toml").write_text(toml)
    return folder
