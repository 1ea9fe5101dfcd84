"""An ONNX graph that is read by name and mended in place: shapes, constants, attributes, nodes put in between."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from scripts.doctor.rows import Untold

WITNESS = 97  # stands for a batch size that is open: no real dimension is likely to be it
BATCH = "batch"

Values = NDArray[Any]


class Graph:
    """The main graph of a model. `batch`: the size it is made for, WITNESS where that is open. `changes`: in words."""

    def __init__(self, model: onnx.ModelProto, batch_axes: dict[str, int]) -> None:
        """`batch_axes`: which dimension of each input is the batch."""
        self.model, self.graph = model, model.graph
        constants = {one.name: one for one in self.graph.initializer}
        self.inputs = inputs_of(model)
        self._constants: dict[str, Values | onnx.TensorProto] = dict(constants)
        for node in self.graph.node:
            if node.op_type == "Constant" and (value := _constant(node)) is not None:
                self._constants[node.output[0]] = value
        self.opset = max((one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}), default=1)
        fixed = [dims(port)[batch_axes[port.name]] for port in self.inputs if dims(port)]
        self.batch = next((size for size in fixed if isinstance(size, int)), WITNESS)
        self._shapes = self._infer(batch_axes)
        self.changes: list[str] = []
        self._before: dict[int, list[onnx.NodeProto]] = {}
        self._after: list[onnx.NodeProto] = []
        self._made = 0

    def nodes(self) -> Iterator[onnx.NodeProto]:
        yield from self.graph.node

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes for a batch of `batch`; raises Untold."""
        if name in self._constants:
            return tuple(self.constant(name).shape)
        if (found := self._shapes.get(name)) is None:
            message = f"the shape of {name!r} is not known"
            raise Untold(message)
        return found

    def constant(self, name: str) -> Values:
        """Raises KeyError for what is none."""
        value = self._constants[name]
        if isinstance(value, onnx.TensorProto):
            value = self._constants[name] = numpy_helper.to_array(value)
        return value

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def add_constant(self, values: Values) -> str:
        """A new one, as others may share the old."""
        self._made += 1
        name = f"jitney_{self._made}"
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        self._constants[name] = values
        return name

    def put_before(self, node: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """To be run just before `node`."""
        self._before.setdefault(id(node), []).extend(new)

    def put_last(self, *new: onnx.NodeProto) -> None:
        self._after.extend(new)

    def put_first(self, *new: onnx.NodeProto) -> None:
        self._before.setdefault(0, []).extend(new)

    def fresh(self) -> str:
        """A name for a tensor in between."""
        self._made += 1
        return f"jitney_{self._made}"

    def finish(self) -> None:
        """Put what was added in its place, and forget what was inferred from the old batch size."""
        ordered = [*self._before.get(0, [])]
        for node in self.graph.node:
            ordered += [*self._before.get(id(node), []), node]
        ordered += self._after
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        del self.graph.value_info[:]
        kept = [onnx.ValueInfoProto.FromString(port.SerializeToString()) for port in self.inputs]
        del self.graph.input[:]
        self.graph.input.extend(kept)
        self.model.ir_version = max(self.model.ir_version, 4)  # from which on constants need not be inputs

    def _infer(self, batch_axes: dict[str, int]) -> dict[str, tuple[int, ...]]:
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        del copy.graph.value_info[:]
        for port in copy.graph.input:
            if port.name in batch_axes and dims(port):
                set_dim(port, batch_axes[port.name], self.batch)
        for port in copy.graph.output:  # stale where the exporter guessed
            port.type.tensor_type.ClearField("shape")
        try:
            inferred = shape_inference.infer_shapes(copy, data_prop=True).graph
        except Exception:  # noqa: BLE001 (its errors share no base; then shapes are not known, and each rule says so)
            inferred = copy.graph
        ports = [*inferred.input, *inferred.value_info, *inferred.output]
        sizes = {port.name: dims(port) for port in ports if port.type.tensor_type.HasField("shape")}
        return {
            name: tuple(int(one) for one in found)
            for name, found in sizes.items()
            if all(isinstance(one, int) for one in found)
        }


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What a caller gives: before IR 4 the constants are listed among the inputs too."""
    constants = {one.name for one in model.graph.initializer}
    return [port for port in model.graph.input if port.name not in constants]


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Its value, or the default."""
    for one in node.attribute:
        if one.name == name:
            value = helper.get_attribute_value(one)
            return value.decode() if isinstance(value, bytes) else value
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [one for one in node.attribute if one.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def dims(port: onnx.ValueInfoProto) -> list[int | str]:
    """As declared: a number, or the name of what is open."""
    return [
        one.dim_value if one.HasField("dim_value") else one.dim_param or "?" for one in port.type.tensor_type.shape.dim
    ]


def set_dim(port: onnx.ValueInfoProto, axis: int, size: int | str) -> None:
    dim = port.type.tensor_type.shape.dim[axis]
    if isinstance(size, int):
        dim.dim_value = size
    else:
        dim.dim_param = size


def named(node: onnx.NodeProto) -> str:
    """How an operator is told of: its type, and its own name or what it makes."""
    return f"{node.op_type} {node.name or next(iter(node.output), '?')!r}"


def read(path: Path) -> onnx.ModelProto:
    """With its external weights; raises what the package raises."""
    return onnx.load(path)


def _constant(node: onnx.NodeProto) -> Values | None:
    for one in node.attribute:
        value = helper.get_attribute_value(one)
        if one.name == "value":
            return numpy_helper.to_array(value)
        if one.name in {"value_int", "value_ints"}:
            return np.array(value, np.int64)
        if one.name in {"value_float", "value_floats"}:
            return np.array(value, np.float32)
    return None


def sides(values: Sequence[int]) -> str:
    return str(list(values))
