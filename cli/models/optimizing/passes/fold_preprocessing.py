"""Moves the arithmetic of image preprocessing into the graph, whose input becomes 8-bit pixels.

A row then has a quarter of the bytes, and decode threads do less. Decoding, resizing and cropping stay outside.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cli.models.optimizing.evaluation.loaded_version import LoadedVersion
from cli.models.optimizing.passes import onnx_graphs
from model_runtime.spec.image import ImageSpec
from model_runtime.spec.model_toml import SPEC_FILE, ModelError
from model_runtime.tensor_spec import Array

MIN_OPSET: Final = 7  # the first in which Mul and Add broadcast like numpy
# Operator, constant operand or None, attributes.
Step = tuple[str, Array | None, dict[str, Any]]
_TYPES: Final = {"FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE}


def check_foldable(version: LoadedVersion) -> None:
    """Raise ModelError if there is no preprocessing to fold, or it is already in the graph."""
    title, key = version.folder.onnx, "--fold"
    if version.folder.spec.task == "tensor" or not version.takes_images:
        raise ModelError(title, key, "the model takes tensors, not images; allowed: an image task")
    if ".py:" in version.folder.spec.task:
        raise ModelError(title, key, "its custom task may preprocess in any way; allowed: a built-in image task")
    inputs = version.engine.inputs
    if len(inputs) != 1 or inputs[0].datatype not in _TYPES:
        kinds = ", ".join(f"{spec.name} {spec.datatype}" for spec in inputs)
        raise ModelError(title, key, f"it takes {kinds}; allowed: one input of {', '.join(_TYPES)}")


def write(source: Path, target: Path, version: LoadedVersion) -> None:
    """Prepend `(pixel * scale - mean) / std`, the channel order and the layout to the graph."""
    image, spec = version.task.spec.image, version.engine.inputs[0]
    model = onnx_graphs.upgrade_opset(onnx_graphs.read(source), MIN_OPSET, version.folder.onnx)
    graph, old = model.graph, model.graph.input[0]
    name = _free_name(model)
    nodes, constants = _chain(name, old.name, _steps(image, spec.datatype))
    batch = old.type.tensor_type.shape.dim[0]
    rows = batch.dim_param or (batch.dim_value if batch.HasField("dim_value") else "N")
    pixels = helper.make_tensor_value_info(name, TensorProto.UINT8, [rows, *size(image, spec.shape), image.channels])
    nodes += list(graph.node)
    for field, values in ((graph.node, nodes), (graph.input, [pixels])):
        del field[:]
        field.extend(values)
    graph.initializer.extend(constants)
    onnx_graphs.save(model, target)


def _steps(image: ImageSpec, datatype: str) -> list[Step]:
    """Return the arithmetic of `model_runtime.images.decode.to_array`; only fused rounding differs.

    Steps that move data come first, while numbers have one byte, and move whole planes if the layout has planes.
    """
    planes = image.layout == "NCHW"
    shape, axis = ((-1, 1, 1), 1) if planes else ((-1,), 3)
    std = np.array(image.std)
    factor = np.broadcast_to(np.asarray(image.scale / std, np.float32), image.channels).reshape(shape)
    offset = np.broadcast_to(np.asarray(-np.array(image.mean) / std, np.float32), image.channels).reshape(shape)
    return [
        *([("Transpose", None, {"perm": [0, 3, 1, 2]})] if planes else []),
        *([("Gather", np.array([2, 1, 0], np.int64), {"axis": axis})] if image.color == "BGR" else []),
        ("Cast", None, {"to": TensorProto.FLOAT}),
        *([("Mul", factor, {})] if np.any(factor != 1) else []),
        *([("Add", offset, {})] if offset.any() else []),
        *([("Cast", None, {"to": _TYPES[datatype]})] if datatype != "FP32" else []),
    ]


def _chain(first: str, last: str, steps: list[Step]) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    nodes, constants, at = [], [], first
    for number, (operator, values, attributes) in enumerate(steps, 1):
        step = f"{first}_{number}"
        inputs = [at]
        if values is not None:
            constants.append(numpy_helper.from_array(np.ascontiguousarray(values), f"{step}_by"))
            inputs.append(f"{step}_by")
        at = last if number == len(steps) else step
        nodes.append(helper.make_node(operator, inputs, [at], name=f"{step}_{operator}", **attributes))
    return nodes, constants


def _free_name(model: onnx.ModelProto) -> str:
    """Return an unused name for the input, also unused as the prefix of other names."""
    graph = model.graph
    used = {name for node in graph.node for name in (*node.input, *node.output, node.name)}
    used |= {value.name for value in (*graph.initializer, *graph.input)}
    names = ("pixels", *(f"pixels{number}" for number in range(len(used))))
    return next(name for name in names if not any(other.startswith(name) for other in used))


def size(image: ImageSpec, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width of preprocessed images: those of model.toml, or else of the input."""
    if image.size is not None:
        return image.size
    height, width = shape[1:] if image.layout == "NCHW" else shape[:2]
    return height, width


def folded_spec(version: LoadedVersion) -> str:
    """Return the `model.toml` of the version; its `[image]` decodes, resizes and crops, but leaves pixels unchanged."""
    image = version.task.spec.image
    keys: dict[str, object] = {
        "resize": image.resize or size(image, version.engine.inputs[0].shape),
        "crop": image.crop,
        "fit": None if image.fit == "stretch" else image.fit,
        "filter": image.filter,
        "color": "gray" if image.color == "gray" else "RGB",
        "layout": "NHWC",
        "background": image.background,
        "max_pixels": image.max_pixels,
    }
    # Strings, integers and lists of them look the same in TOML and JSON.
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None]
    comments = [
        f"# Differences of this version from ../{SPEC_FILE}: its graph takes unscaled pixels and contains scale, mean,",
        "# std, channel order and layout.",
    ]
    return "\n".join([*comments, "[image]", *lines, ""])
