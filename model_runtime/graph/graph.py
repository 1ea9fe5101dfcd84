"""An ONNX graph that is read by name and mended in place: shapes, constants, attributes, nodes put in between."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from model_runtime.graph.batch_axis import Undetermined

PLACEHOLDER_BATCH_SIZE = 97  # stands for a batch size that is open: no real dimension is likely to be it
BATCH = "batch"
SMALL = 4096  # a constant of so few numbers may be somebody's shape

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
        fixed = [dims_of(value_info)[batch_axes[value_info.name]] for value_info in self.inputs if dims_of(value_info)]
        self.batch = next((size for size in fixed if isinstance(size, int)), PLACEHOLDER_BATCH_SIZE)
        self.changes: list[str] = []
        self._axes = batch_axes
        self._before: dict[str, list[onnx.NodeProto]] = {}  # what the node makes first → what comes before it
        self._first: list[onnx.NodeProto] = []
        self._last: list[onnx.NodeProto] = []
        self._made = 0
        self._shapes = self._infer()

    def nodes(self) -> Iterator[onnx.NodeProto]:
        yield from self.graph.node

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes for a batch of `batch`; raises Untold."""
        if name in self._constants:
            return tuple(self.constant(name).shape)
        if (found := self._shapes.get(name)) is None:
            message = f"the shape of {name!r} is not known"
            raise Undetermined(message)
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
        self._before.setdefault(_made_by(node), []).extend(new)

    def put_last(self, *new: onnx.NodeProto) -> None:
        self._last.extend(new)

    def put_first(self, *new: onnx.NodeProto) -> None:
        self._first.extend(new)

    def fresh(self) -> str:
        """A name for a tensor in between."""
        self._made += 1
        return f"jitney_{self._made}"

    def reinfer_shapes(self) -> None:
        """Shapes have become others by what was mended so far."""
        self._shapes = self._infer()

    def finish(self) -> None:
        """Put what was added in its place, and declare what follows from an open batch."""
        _replace(self.graph.node, self._ordered())
        _replace(self.graph.input, self.inputs)
        del self.graph.value_info[:]
        self.model.ir_version = max(self.model.ir_version, 4)  # from which on constants need not be inputs
        inferred = {value_info.name: value_info for value_info in _inferred(self.model).output}
        for value_info in self.graph.output:
            if dims_of(inferred[value_info.name]):
                value_info.type.CopyFrom(inferred[value_info.name].type)
            if dims_of(value_info):
                set_dim(value_info, 0, BATCH)

    def rename(self, old: str, new: str) -> None:
        """In every operator, those put in between too."""
        for node in self._ordered():
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    if name == old:
                        names[at] = new

    def _ordered(self) -> list[onnx.NodeProto]:
        between = (one for node in self.graph.node for one in (*self._before.get(_made_by(node), ()), node))
        return [*self._first, *between, *self._last]

    def _infer(self) -> dict[str, tuple[int, ...]]:
        """Every shape that is known for certain, for a batch of `batch`."""
        copy = _light(self.model)
        _replace(copy.graph.node, self._ordered())
        for value_info in copy.graph.input:
            if value_info.name in self._axes and dims_of(value_info):
                set_dim(value_info, self._axes[value_info.name], self.batch)
        inferred = _inferred(copy)
        ports = [*inferred.input, *inferred.value_info, *inferred.output]
        sizes = {
            value_info.name: dims_of(value_info)
            for value_info in ports
            if value_info.type.tensor_type.HasField("shape")
        }
        return {
            name: tuple(int(one) for one in found)
            for name, found in sizes.items()
            if all(isinstance(one, int) for one in found)
        }


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """With the shapes that follow from the inputs', whatever the exporter declared of the outputs."""
    copy = _light(model)
    for value_info in copy.graph.output:
        value_info.type.tensor_type.ClearField("shape")
    try:
        return shape_inference.infer_shapes(copy, data_prop=True).graph
    except Exception:  # noqa: BLE001 (its errors share no base; then shapes are not known, and each rule says so)
        return copy.graph


def _light(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the weights, for shapes: large constants become inputs, whose values no shape follows from."""
    copy = onnx.ModelProto(ir_version=max(model.ir_version, 4))  # below, constants count only where they are inputs too
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    copy.graph.name = model.graph.name
    copy.graph.node.extend(model.graph.node)
    copy.graph.input.extend(inputs_of(model))
    copy.graph.output.extend(model.graph.output)
    for one in model.graph.initializer:
        if prod(one.dims) <= SMALL:
            copy.graph.initializer.append(one)
        else:
            copy.graph.input.append(helper.make_tensor_value_info(one.name, one.data_type, one.dims))
    return copy


def _made_by(node: onnx.NodeProto) -> str:
    return next((str(name) for name in node.output if name), "")


def _replace(field: Any, values: Sequence[Any]) -> None:
    """Copies, as clearing the field would take what is in it along."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What a caller gives: before IR 4 the constants are listed among the inputs too."""
    constants = {one.name for one in model.graph.initializer}
    return [value_info for value_info in model.graph.input if value_info.name not in constants]


def read_attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
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


def dims_of(value_info: onnx.ValueInfoProto) -> list[int | str]:
    """As declared: a number, or the name of what is open."""
    return [
        one.dim_value if one.HasField("dim_value") else one.dim_param or "?"
        for one in value_info.type.tensor_type.shape.dim
    ]


def set_dim(value_info: onnx.ValueInfoProto, axis: int, size: int | str) -> None:
    dim = value_info.type.tensor_type.shape.dim[axis]
    if isinstance(size, int):
        dim.dim_value = size
    else:
        dim.dim_param = size


def describe_node(node: onnx.NodeProto) -> str:
    """How an operator is told of: its type, and its own name or what it makes."""
    return f"{node.op_type} {node.name or next(iter(node.output), '?')!r}"


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


def format_shape(values: Sequence[int]) -> str:
    return str(list(values))
