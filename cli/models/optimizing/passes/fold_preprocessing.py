"""The pipeline's arithmetic moved into the graph: pixels go in as they are, and become numbers on the device.

A row is a quarter of the bytes then, and threads that decode have less to do. Decoding, resizing and cropping stay.
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

MIN_OPSET: Final = 7  # the first in which Mul and Add take operands of different shapes as numpy does
# An operator, its constant operand if it has one, and its attributes.
Step = tuple[str, Array | None, dict[str, Any]]
_TYPES: Final = {"FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE}


def check_foldable(served: LoadedVersion) -> None:
    """Raises ModelError where there is no pipeline to fold, or it is in the graph already."""
    title, key = served.folder.onnx, "--fold"
    if served.folder.spec.task == "tensor" or not served.takes_images:
        raise ModelError(title, key, "the model takes tensors, no images; allowed: an image task")
    if ".py:" in served.folder.spec.task:
        raise ModelError(
            title, key, "its task is code of your own, which may prepare as it likes; allowed: our image tasks"
        )
    ports = served.engine.inputs
    if len(ports) != 1 or ports[0].datatype not in _TYPES:
        kinds = ", ".join(f"{port.name} {port.datatype}" for port in ports)
        raise ModelError(
            title, key, f"it takes {kinds}; allowed: one input of {', '.join(_TYPES)}: pixels are there to be folded"
        )


def write(source: Path, target: Path, served: LoadedVersion) -> None:
    """Put `(pixel * scale - mean) / std`, the order of channels and the layout in front of the graph."""
    image, port = served.folder.spec.image, served.engine.inputs[0]
    model = onnx_graphs.upgrade_opset(onnx_graphs.read(source), MIN_OPSET, served.folder.onnx)
    graph, old = model.graph, model.graph.input[0]
    name = _free_name(model)
    nodes, constants = _chain(name, old.name, _steps(image, port.datatype))
    batch = old.type.tensor_type.shape.dim[0]
    rows = batch.dim_param or (batch.dim_value if batch.HasField("dim_value") else "N")
    pixels = helper.make_tensor_value_info(name, TensorProto.UINT8, [rows, *size(image, port.shape), image.channels])
    rest = list(graph.node)
    for field, values in ((graph.node, [*nodes, *rest]), (graph.input, [pixels])):
        del field[:]
        field.extend(values)
    graph.initializer.extend(constants)
    onnx_graphs.save(model, target)


def _steps(image: ImageSpec, datatype: str) -> list[Step]:
    """The same arithmetic as `model_runtime.images.decode.to_array`, to the last bit but for fused rounding.

    What moves numbers comes first, while they are of one byte, and moves whole planes where the layout has such.
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
    """For the input, and for what is called after it."""
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output, node.name)}
    taken |= {one.name for one in (*graph.initializer, *graph.input)}
    names = ("pixels", *(f"pixels{number}" for number in range(len(taken))))
    return next(name for name in names if not any(one.startswith(name) for one in taken))


def size(image: ImageSpec, shape: tuple[int, ...]) -> tuple[int, int]:
    """Of every prepared image, height first: as written, or else the model's own."""
    if image.size is not None:
        return image.size
    height, width = shape[1:] if image.layout == "NCHW" else shape[:2]
    return height, width


def folded_spec(served: LoadedVersion) -> str:
    """The version's `model.toml`: its `[image]` decodes, resizes and crops as before, and leaves pixels as they are."""
    image = served.folder.spec.image
    keys: dict[str, object] = {
        "resize": image.resize or size(image, served.engine.inputs[0].shape),
        "crop": image.crop,
        "filter": image.filter,
        "color": "gray" if image.color == "gray" else "RGB",
        "layout": "NHWC",
        "background": image.background,
        "max_pixels": image.max_pixels,
    }
    # What TOML and JSON write alike: words in quotes, whole numbers, lists of them.
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None]
    head = (
        f"# What this version differs in from ../{SPEC_FILE}: its graph takes pixels as they are, and has scale, mean,"
    )
    return "\n".join([head, "# std, the order of channels and the layout inside.", "[image]", *lines, ""])
