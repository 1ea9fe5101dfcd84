"""Models whose run fails for some inputs: a guard behind a real network fails on a bright first pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from onnx import helper, numpy_helper


def add_guard(path: Path, bright: float) -> None:
    """Let the network at this path fail, once it has run, for rows whose first value is `bright` or more.

    Behind it and not before it, so that a failed run costs what a good one does.
    """
    model = onnx.version_converter.convert_version(onnx.load(path), 17)  # where Slice takes its bounds as inputs
    model.ir_version = 8
    graph = model.graph
    first, last = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        node.output[:] = ["unguarded" if name == last else name for name in node.output]
    rank = len(graph.input[0].type.tensor_type.shape.dim)
    constants: dict[str, np.ndarray[Any, Any]] = {
        "g_zeros": np.zeros(rank - 1, np.int64),
        "g_ones": np.ones(rank - 1, np.int64),
        "g_axes": np.arange(1, rank, dtype=np.int64),
        "g_bright": np.array(bright, np.float32),
        "g_none": np.array(0, np.float32),
        "g_table": np.zeros(1, np.float32),
        "g_row": np.array([-1], np.int64),
        "g_column": np.array([-1, 1], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    nodes = [
        ("Slice", [first, "g_zeros", "g_ones", "g_axes"], "g_pixel"),
        ("Div", ["g_pixel", "g_bright"], "g_share"),
        ("Floor", ["g_share"], "g_floor"),
        ("Max", ["g_floor", "g_none"], "g_mark"),
        ("Reshape", ["g_mark", "g_row"], "g_marks"),
        # Nought times the output: so that it is looked at only when the network has run.
        ("Flatten", ["unguarded"], "g_flat"),
        ("Slice", ["g_flat", "g_first", "g_second", "g_one"], "g_some"),
        ("Mul", ["g_some", "g_none"], "g_nought"),
        ("Reshape", ["g_nought", "g_row"], "g_noughts"),
        ("Add", ["g_marks", "g_noughts"], "g_where"),
        ("Cast", ["g_where"], "g_index"),
        ("Gather", ["g_table", "g_index"], "g_looked_up"),  # beyond the table: the run fails
        ("Reshape", ["g_looked_up", "g_column"], "g_added"),
        ("Add", ["g_flat", "g_added"], "g_sum"),
        ("Shape", ["unguarded"], "g_shape"),
        ("Reshape", ["g_sum", "g_shape"], last),
    ]
    for name, value in (("g_first", [0]), ("g_second", [1]), ("g_one", [1])):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    for operator, inputs, output in nodes:
        more: dict[str, Any] = {"to": onnx.TensorProto.INT64} if operator == "Cast" else {}
        graph.node.append(helper.make_node(operator, inputs, [output], **more))
    onnx.save(model, path)
