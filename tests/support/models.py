"""Model folders for tests, generated in an operator's layout."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

SQUEEZENET_TOML = """
task = "image-classification"
[image]
resize = 256
crop = 224
color = "BGR"
mean = [104, 117, 123]
[classification]
labels = "labels.txt"
softmax = false
"""

SLOW_ENGINE = '''
"""Doubles, and takes 50 ms a row, so that a test can act in the middle of a batch; but for zeros, which warm it up."""
import threading
from jitney import TensorSpec

class Slow:
    provider, device, runtime, batchable = "cpu", "patience", "1", True

    def __init__(self, version, spec, gpu):
        self.inputs, self.outputs = [TensorSpec("x", "FP32", (4,))], [TensorSpec("y", "FP32", (4,))]

    def run(self, arrays, stop):
        x = arrays["x"]
        if x.any():
            threading.Event().wait(0.05 * len(x))
        return {"y": x + x}
'''

POISON_TASK = '''
"""A doubling task with two inputs that end its process: below -1 where it is prepared, below 0 where it is shown."""
import ctypes
from jitney import TensorTask

class Poison(TensorTask):
    def preprocess(self, kind, data, parameters):
        arrays = super().preprocess(kind, data, parameters)
        if arrays["x"][0] < -1:
            ctypes.string_at(0)
        return arrays

    def postprocess(self, outputs, parameters):
        if outputs["y"][0] < 0:
            ctypes.string_at(0)
        return super().postprocess(outputs, parameters)
'''


def squeezenet(models_dir: Path, shared_data: Path, file: str, name: str = "squeezenet", toml: str = "") -> None:
    """Lay out the real SqueezeNet: its file, its labels, a model.toml, nothing else. `toml`: keys before its own."""
    folder = models_dir / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes((shared_data / "models" / file).read_bytes())
    lines = (shared_data / "labels" / "synset.txt").read_text().splitlines()
    (folder / "labels.txt").write_text("\n".join(line.partition(" ")[2] for line in lines))
    (folder / "model.toml").write_text(f"{toml}\n{SQUEEZENET_TOML}")


def doubling(models_dir: Path, name: str = "double", toml: str = 'task = "tensor"') -> Path:
    """Lay out a model that doubles four numbers: x float32 [N, 4] → y float32 [N, 4]."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, ["N", 4]) for port in "xy"]
    graph = helper.make_graph([node], "double", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder = models_dir / name
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "model.toml").write_text(toml)
    return folder


def times(
    models_dir: Path,
    version: int,
    name: str = "times",
    toml: str = 'task = "tensor"',
    factor: float | None = None,
) -> Path:
    """Lay out a version that multiplies by its number (or `factor`), so that answers tell who gave them: x, y [N, 4].

    It comes as a whole, as a careful operator would move it there.
    """
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, ["N", 4]) for port in "xy"]
    by = helper.make_tensor("factor", TensorProto.FLOAT, [], [version if factor is None else factor])
    graph = helper.make_graph([node], "times", ports[:1], ports[1:], [by])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder, coming = models_dir / name, models_dir / f".{name}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    coming.mkdir()
    onnx.save(model, coming / "model.onnx")
    if not (folder / "model.toml").exists():
        (folder / "model.toml").write_text(toml)
    coming.rename(folder / str(version))
    return folder


def perceptron(models_dir: Path, name: str = "perceptron", inputs: int = 784) -> None:
    """Lay out a tiny network, whose run costs almost nothing: x float32 [N, inputs] → y float32 [N, 10]."""
    sizes, random = (inputs, 128, 10), np.random.default_rng(1)
    weights = [random.standard_normal(pair, np.float32) * pair[0] ** -0.5 for pair in itertools.pairwise(sizes)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w1"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(p, TensorProto.FLOAT, ["N", n]) for p, n in (("x", inputs), ("y", 10))]
    constants = [numpy_helper.from_array(weight, f"w{n}") for n, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, name, ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (models_dir / name / "1").mkdir(parents=True)
    onnx.save(model, models_dir / name / "1" / "model.onnx")
    (models_dir / name / "model.toml").write_text('task = "tensor"\nthreads = 1')


def heavy(models_dir: Path, version: int, weights_mib: int, name: str = "heavy") -> None:
    """Lay out a version with weights of a given size: x float32 [N, 4] → y float32 [N, 4]."""
    rows = (weights_mib << 20) // 16
    table = np.random.default_rng(version).standard_normal((4, rows), np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "table"], ["wide"]),
        helper.make_node("ReduceMean", ["wide"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Add", ["x", "mean"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, ["N", 4]) for port in "xy"]
    graph = helper.make_graph(nodes, name, ports[:1], ports[1:], [numpy_helper.from_array(table, "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (models_dir / name / str(version)).mkdir(parents=True)
    onnx.save(model, models_dir / name / str(version) / "model.onnx")


def slow(models_dir: Path, name: str = "slow") -> None:
    """Lay out a doubling model that takes its time: 50 ms an item, batches of 8."""
    folder = doubling(models_dir, name, 'task = "tensor"\nengine = "slow.py:Slow"\nmax_batch = 8\nbatching = "trust"')
    (folder / "slow.py").write_text(SLOW_ENGINE)


def poison(models_dir: Path, name: str = "poison") -> None:
    """Lay out a doubling model with inputs that kill its worker, batches of 8."""
    folder = doubling(models_dir, name, 'task = "poison.py:Poison"\nmax_batch = 8')
    (folder / "poison.py").write_text(POISON_TASK)


def allocating(models_dir: Path, name: str = "allocating") -> None:
    """Lay out a model whose caller says how much memory it takes: n int64 [1] → y float32 [1], 4 n bytes."""
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0])
    nodes = [
        helper.make_node("ConstantOfShape", ["n"], ["many"], value=zero),
        helper.make_node("ReduceSum", ["many"], ["y"], keepdims=1),
    ]
    _lay_out(models_dir / name, nodes, [], 'task = "tensor"\n[retry]\nattempts = 2\nbackoff_ms = 100')


def looping(models_dir: Path, name: str = "looping") -> None:
    """Lay out a model whose caller says how long it runs: n int64 [1] → y float32 [1], n products of 256 x 256."""
    ports = {"i": (TensorProto.INT64, []), "go": (TensorProto.BOOL, []), "a": (TensorProto.FLOAT, [256, 256])}
    nodes = [helper.make_node("MatMul", ["a", "a0"], ["b"]), helper.make_node("Identity", ["go"], ["on"])]
    ends = {"on": ports["go"], "b": ports["a"]}
    start, end = ([helper.make_tensor_value_info(key, *p) for key, p in side.items()] for side in (ports, ends))
    body = helper.make_graph(nodes, "body", start, end)
    nodes = [
        helper.make_node("Squeeze", ["n"], ["times"]),
        helper.make_node("Loop", ["times", "", "a0"], ["last"], body=body),
        helper.make_node("ReduceMean", ["last"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "one"], ["y"]),
    ]
    constants = [
        helper.make_tensor("a0", TensorProto.FLOAT, [256, 256], [1 / 256] * (256 * 256)),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
    ]
    _lay_out(models_dir / name, nodes, constants, 'task = "tensor"\nthreads = 1')


def picking(models_dir: Path, name: str = "pick", rows: int = 4) -> None:
    """Lay out a model that looks a row up: x int64 [N, 1] → y float32 [N, 1]; the run fails beyond the last row."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [rows], range(rows))
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])
    graph = helper.make_graph([node], "pick", [x], [y], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder = models_dir / name
    version = 1 + sum(one.is_dir() for one in folder.glob("*"))
    (folder / str(version)).mkdir(parents=True)
    onnx.save(model, folder / str(version) / "model.onnx")
    (folder / "model.toml").write_text('task = "tensor"')


def _lay_out(folder: Path, nodes: Sequence[NodeProto], constants: Sequence[TensorProto], toml: str) -> None:
    """Lay out a model from n int64 [1] to y float32 [1]."""
    taken = [helper.make_tensor_value_info("n", TensorProto.INT64, [1])]
    given = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    graph = helper.make_graph(list(nodes), folder.name, taken, given, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "model.toml").write_text(toml)


def bright_boxes(models_dir: Path, name: str = "finder", toml: str = "") -> Path:
    """Lay out a detector that is right by construction: where red is above a half, and where green is, as by YOLO.

    image float32 [N, 3, 64, 96] of 0 to 1 → y float32 [N, 6, 2]: the middle and size of a box, and its scores as
    something red (0.9) and green (0.8); a box each, of score 0 where there is none.
    """
    nodes, columns = [], []
    for at, score in ((0, "red_score"), (1, "green_score")):
        nodes += [
            helper.make_node("Gather", ["image", f"channel{at}"], [f"plane{at}"], axis=1),
            helper.make_node("Greater", [f"plane{at}", "half"], [f"is{at}"]),
            helper.make_node("Cast", [f"is{at}"], [f"mask{at}"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", [f"mask{at}"], [f"any{at}"], axes=[1, 2], keepdims=0),
        ]
        for axis, side in ((1, "x"), (2, "y")):
            line, first, last = f"{side}{at}", f"{side}{at}first", f"{side}{at}last"
            nodes += [
                helper.make_node("ReduceMax", [f"mask{at}"], [line], axes=[axis], keepdims=0),
                helper.make_node("ArgMax", [line], [f"{first}i"], axis=1, keepdims=0),
                helper.make_node("ArgMax", [line], [f"{last}i"], axis=1, keepdims=0, select_last_index=1),
                helper.make_node("Cast", [f"{first}i"], [first], to=TensorProto.FLOAT),
                helper.make_node("Cast", [f"{last}i"], [f"{last}f"], to=TensorProto.FLOAT),
                helper.make_node("Add", [f"{last}f", "one"], [last]),
                helper.make_node("Sub", [last, first], [f"{side}{at}size"]),
                helper.make_node("Add", [last, first], [f"{side}{at}sum"]),
                helper.make_node("Mul", [f"{side}{at}sum", "half"], [f"{side}{at}middle"]),
            ]
        nodes += [
            helper.make_node("Mul", [f"any{at}", score], [f"score{at}"]),
            helper.make_node("Sub", [f"any{at}", f"any{at}"], [f"nothing{at}"]),
        ]
        told = [f"x{at}middle", f"y{at}middle", f"x{at}size", f"y{at}size", f"score{at}", f"nothing{at}"]
        if at == 1:
            told[4:] = told[:3:-1]
        for part in told:
            nodes.append(helper.make_node("Unsqueeze", [part, "last_axis"], [f"{part}column{at}"]))
        columns.append([f"{part}column{at}" for part in told])
        nodes.append(helper.make_node("Concat", columns[-1], [f"box{at}"], axis=1))
        nodes.append(helper.make_node("Unsqueeze", [f"box{at}", "third_axis"], [f"box{at}column"]))
    nodes.append(helper.make_node("Concat", ["box0column", "box1column"], ["y"], axis=2))
    numbers = {"half": 0.5, "one": 1.0, "red_score": 0.9, "green_score": 0.8}
    constants = [helper.make_tensor(key, TensorProto.FLOAT, [], [value]) for key, value in numbers.items()]
    constants += [helper.make_tensor(f"channel{at}", TensorProto.INT64, [], [at]) for at in (0, 1)]
    constants += [
        helper.make_tensor(f"{key}_axis", TensorProto.INT64, [1], [n]) for key, n in (("last", 1), ("third", 2))
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 64, 96])
    boxes = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6, 2])
    graph = helper.make_graph(nodes, name, [image], [boxes], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder = models_dir / name
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "labels.txt").write_text("red thing\ngreen thing")
    (folder / "model.toml").write_text(toml)
    return folder


def mean_colour(models_dir: Path, name: str = "colour", toml: str = 'task = "image-embedding"') -> Path:
    """Lay out a model whose features are the mean of each channel: image float32 [N, 3, 8, 8] → y [N, 3, 1, 1]."""
    node = helper.make_node("GlobalAveragePool", ["image"], ["y"])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])
    mean = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 1, 1])
    graph = helper.make_graph([node], name, [image], [mean])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder = models_dir / name
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "model.toml").write_text(toml)
    return folder
