"""ONNX graphs with a fixed batch size, and graphs that mix rows; each is named for its fault."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.support.model_files.graphs import int64_constant, node, numbers, write

Maker = Callable[[Path, "int | str"], Path]


def reshape(path: Path, n: int | str) -> Path:
    nodes = [node("Relu", ["x"], ["r"]), node("Reshape", ["r", "to"], ["f"]), node("MatMul", ["f", "w"], ["y"])]
    constants = {"to": int64_constant(n if isinstance(n, int) else -1, 12), "w": numbers(12, 5)}
    return write(path, nodes, {"x": [n, 3, 4]}, {"y": [n, 5]}, constants)


def class_token(path: Path, n: int | str) -> Path:
    """As in vision transformers: a constant row is joined to each row's patches, with attention over them."""
    heads = [node("MatMul", ["t", weight], [out]) for weight, out in (("wq", "q"), ("wk", "k"), ("wv", "v"))]
    nodes = [
        node("Concat", ["token", "x"], ["t"], axis=1),
        *heads,
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["a"]),
        node("Gather", ["a", "first"], ["y"], axis=1),
    ]
    rows = n if isinstance(n, int) else 1
    weights = {name: numbers(8, 8, seed=at) for at, name in enumerate(("wq", "wk", "wv"))}
    constants = {"token": np.repeat(numbers(1, 1, 8), rows, 0), "first": np.array(0, np.int64), **weights}
    return write(path, nodes, {"x": [n, 4, 8]}, {"y": [n, 8]}, constants)


def expand(path: Path, n: int | str) -> Path:
    nodes = [node("Expand", ["x", "to"], ["e"]), node("ReduceSum", ["e", "last"], ["y"], keepdims=0)]
    return write(
        path, nodes, {"x": [n, 3, 1]}, {"y": [n, 3]}, {"to": int64_constant(int(n), 3, 4), "last": int64_constant(2)}
    )


def squeeze(path: Path, n: int | str) -> Path:
    nodes = [node("GlobalAveragePool", ["x"], ["g"]), node("Squeeze", ["g"], ["s"]), node("Exp", ["s"], ["y"])]
    return write(path, nodes, {"x": [n, 3, 4, 4]}, {"y": [3]})


def heads(path: Path, n: int | str) -> Path:
    """Dimensions split and transposed, as for attention heads, and time folded into the batch and back."""
    nodes = [
        node("Reshape", ["x", "parted"], ["p"]),
        node("Transpose", ["p"], ["t"], perm=[0, 2, 1, 3]),
        node("Reshape", ["t", "folded"], ["f"]),
        node("MatMul", ["f", "w"], ["m"]),
        node("Reshape", ["m", "unfolded"], ["y"]),
    ]
    rows = int(n)
    constants = {
        "parted": int64_constant(rows, 6, 2, 4),
        "folded": int64_constant(rows * 2, 6, 4),
        "unfolded": int64_constant(rows, -1),
        "w": numbers(4, 4),
    }
    return write(path, nodes, {"x": [n, 6, 8]}, {"y": [n, 48]}, constants)


def recurrent(path: Path, n: int | str) -> Path:
    """Time first, batch second, with an initial state for a batch of one."""
    nodes = [
        node("LSTM", ["x", "w", "r", "", "", "h", "c"], ["all", "last"], hidden_size=5),
        node("Squeeze", ["last", "first"], ["y"]),
    ]
    constants = {
        "w": numbers(1, 20, 3),
        "r": numbers(1, 20, 5),
        "h": np.repeat(numbers(1, 1, 5), int(n), 1),
        "c": np.zeros((1, int(n), 5), np.float32),
        "first": int64_constant(0),
    }
    return write(path, nodes, {"x": [7, n, 3]}, {"y": [n, 5]}, constants)


def added_bias(path: Path, n: int | str) -> Path:
    """A constant with a copy for each row of the batch."""
    nodes = [node("Add", ["x", "b"], ["s"]), node("Gemm", ["s", "w", "c"], ["y"])]
    rows = int(n)
    bias, shift = (np.repeat(numbers(1, side), rows, 0) for side in (4, 5))
    return write(path, nodes, {"x": [n, 4]}, {"y": [n, 5]}, {"b": bias, "w": numbers(4, 5), "c": shift})


MENDABLE: dict[str, Maker] = {
    one.__name__: one for one in (reshape, class_token, expand, squeeze, heads, recurrent, added_bias)
}


def mixing(op: str, inputs: list[str], **attributes: Any) -> Maker:
    """One operator that mixes rows, between others."""

    def make(path: Path, n: int | str) -> Path:
        nodes = [
            node("Relu", ["x"], ["r"]),
            node(op, inputs, ["m"], name="the-culprit", **attributes),
            node("Add", ["r", "m"], ["y"]),
        ]
        used = {"zero": np.array(0, np.int64)} if "zero" in inputs else {}
        return write(path, nodes, {"x": [n, 4]}, {"y": [n, 4]}, used)

    return make


def quantized(path: Path, n: int | str) -> Path:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="the-culprit"),
        node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return write(path, nodes, {"x": [n, 4]}, {"y": [n, 4]})


def training(path: Path, n: int | str) -> Path:
    nodes = [
        node(
            "BatchNormalization",
            ["x", "one", "none", "none", "one"],
            ["y", "m", "v"],
            training_mode=1,
            name="the-culprit",
        )
    ]
    constants = {"one": np.ones(4, np.float32), "none": np.zeros(4, np.float32)}
    return write(path, nodes, {"x": [n, 4]}, {"y": [n, 4]}, constants)


def looked_at_all(path: Path, n: int | str) -> Path:
    """Every row times every other: a Gram matrix, reduced to rows."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0]),
        node("MatMul", ["x", "t"], ["g"], name="the-culprit"),
        node("MatMul", ["g", "x"], ["y"]),
    ]
    return write(path, nodes, {"x": [n, 4]}, {"y": [n, 4]})


def found_everywhere(path: Path, n: int | str) -> Path:
    nodes = [node("NonZero", ["x"], ["y"], name="the-culprit")]
    return write(path, nodes, {"x": [n, 4]}, {"y": [2, "found"]}, kinds={"y": TensorProto.INT64})


COUPLED: dict[str, tuple[str, Maker]] = {
    "a mean over the batch": ("ReduceMean", mixing("ReduceMean", ["r"], axes=[0])),
    "a sum of everything": ("ReduceSum", mixing("ReduceSum", ["r"])),
    "a softmax over the batch": ("Softmax", mixing("Softmax", ["r"], axis=0)),
    "a running sum": ("CumSum", mixing("CumSum", ["r", "zero"])),
    "the largest of the batch": ("ReduceMax", mixing("ReduceMax", ["r"], axes=[0])),
    "the first row for all": ("Gather", mixing("Gather", ["r", "zero"], axis=0)),
    "normalised over the batch": ("LpNormalization", mixing("LpNormalization", ["r"], axis=0)),
    "one scale for all": ("DynamicQuantizeLinear", quantized),
    "batch statistics": ("BatchNormalization", training),
    "rows by rows": ("MatMul", looked_at_all),
    "one list for all": ("NonZero", found_everywhere),
}
