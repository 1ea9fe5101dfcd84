"""Read and edit an ONNX graph by tensor name: shapes, constants, attributes and inserted nodes."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from model_runtime.graph.batch_axis import Undetermined

PLACEHOLDER_BATCH_SIZE = 97  # substitutes a free batch size in shape inference; unlikely to be a real dimension
BATCH = "batch"
MAX_SHAPE_CONSTANT = 4096  # values; a smaller constant may be a shape

Values = NDArray[Any]


class Graph:
    """The main graph of a model. `batch`: its fixed batch size, or PLACEHOLDER_BATCH_SIZE. `changes`: descriptions."""

    def __init__(self, model: onnx.ModelProto, batch_axes: dict[str, int]) -> None:
        """Index the model's graph and infer its shapes. `batch_axes`: the batch dimension of each input."""
        self.model, self.graph = model, model.graph
        constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.inputs = inputs_of(model)
        self._constants: dict[str, Values | onnx.TensorProto] = dict(constants)
        for node in self.graph.node:
            if node.op_type == "Constant" and (value := _constant(node)) is not None:
                self._constants[node.output[0]] = value
        self.opset = max((opset.version for opset in model.opset_import if opset.domain in {"", "ai.onnx"}), default=1)
        fixed = [dims_of(value_info)[batch_axes[value_info.name]] for value_info in self.inputs if dims_of(value_info)]
        self.batch = next((size for size in fixed if isinstance(size, int)), PLACEHOLDER_BATCH_SIZE)
        self.changes: list[str] = []
        self._axes = batch_axes
        self._before: dict[str, list[onnx.NodeProto]] = {}  # a node's first output → the nodes inserted before it
        self._first: list[onnx.NodeProto] = []
        self._last: list[onnx.NodeProto] = []
        self._name_count = 0
        self._shapes = self._infer()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape for a batch of `batch`. Raises Undetermined if it is unknown."""
        if name in self._constants:
            return tuple(self.constant(name).shape)
        if (shape := self._shapes.get(name)) is None:
            raise Undetermined(f"the shape of {name!r} is unknown")
        return shape

    def constant(self, name: str) -> Values:
        """Return a constant's values. Raises KeyError if the tensor is not a constant."""
        value = self._constants[name]
        if isinstance(value, onnx.TensorProto):
            value = self._constants[name] = numpy_helper.to_array(value)
        return value

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def add_constant(self, values: Values) -> str:
        """Add a constant and return its name. Existing constants may be shared, so they are not changed."""
        name = self.new_name()
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        self._constants[name] = values
        return name

    def insert_before(self, node: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """Insert nodes just before `node`."""
        self._before.setdefault(_first_output(node), []).extend(new)

    def append(self, *new: onnx.NodeProto) -> None:
        self._last.extend(new)

    def prepend(self, *new: onnx.NodeProto) -> None:
        self._first.extend(new)

    def new_name(self) -> str:
        """Return an unused tensor name."""
        self._name_count += 1
        return f"jitney_{self._name_count}"

    def reinfer_shapes(self) -> None:
        """Infer shapes again, after changes to the graph."""
        self._shapes = self._infer()

    def finish(self) -> None:
        """Write inserted nodes into the model, and declare output shapes with a free batch dimension."""
        _replace(self.graph.node, self._ordered())
        _replace(self.graph.input, self.inputs)
        del self.graph.value_info[:]
        self.model.ir_version = max(self.model.ir_version, 4)  # before IR 4, constants must be inputs too
        inferred = {value_info.name: value_info for value_info in _infer_shapes(self.model).output}
        for value_info in self.graph.output:
            if dims_of(inferred[value_info.name]):
                value_info.type.CopyFrom(inferred[value_info.name].type)
            if dims_of(value_info):
                set_dim(value_info, 0, BATCH)

    def rename(self, old: str, new: str) -> None:
        """Rename a tensor in every node, inserted nodes included."""
        for node in self._ordered():
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    if name == old:
                        names[at] = new

    def _ordered(self) -> list[onnx.NodeProto]:
        middle = (each for node in self.graph.node for each in (*self._before.get(_first_output(node), ()), node))
        return [*self._first, *middle, *self._last]

    def _infer(self) -> dict[str, tuple[int, ...]]:
        """Return every fully known shape, for a batch of `batch`."""
        copy = _without_weights(self.model)
        _replace(copy.graph.node, self._ordered())
        for value_info in copy.graph.input:
            if value_info.name in self._axes and dims_of(value_info):
                set_dim(value_info, self._axes[value_info.name], self.batch)
        inferred = _infer_shapes(copy)
        tensors = [*inferred.input, *inferred.value_info, *inferred.output]
        shapes = {
            value_info.name: dims_of(value_info)
            for value_info in tensors
            if value_info.type.tensor_type.HasField("shape")
        }
        return {
            name: tuple(int(side) for side in shape)
            for name, shape in shapes.items()
            if all(isinstance(side, int) for side in shape)
        }


def _infer_shapes(model: onnx.ModelProto) -> onnx.GraphProto:
    """Infer all shapes from those of the inputs, ignoring the declared shapes of the outputs."""
    copy = _without_weights(model)
    for value_info in copy.graph.output:
        value_info.type.tensor_type.ClearField("shape")
    try:
        return shape_inference.infer_shapes(copy, data_prop=True).graph
    except Exception:  # noqa: BLE001 (its errors have no common base; the rules report unknown shapes)
        return copy.graph


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy for shape inference that has inputs in place of large constants."""
    copy = onnx.ModelProto(ir_version=max(model.ir_version, 4))  # before IR 4, constants must be inputs too
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    copy.graph.name = model.graph.name
    copy.graph.node.extend(model.graph.node)
    copy.graph.input.extend(inputs_of(model))
    copy.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= MAX_SHAPE_CONSTANT:
            copy.graph.initializer.append(tensor)
        else:
            copy.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return copy


def _first_output(node: onnx.NodeProto) -> str:
    return next((str(name) for name in node.output if name), "")


def _replace(field: Any, values: Sequence[Any]) -> None:
    """Replace a repeated field. Copies first, as `values` may be elements of the field."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs without constants, which files before IR 4 list among the inputs."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value_info for value_info in model.graph.input if value_info.name not in constants]


def read_attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return a node attribute, or the default."""
    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            return value.decode() if isinstance(value, bytes) else value
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def dims_of(value_info: onnx.ValueInfoProto) -> list[int | str]:
    """Return the declared dimensions: a number, or the name of a free dimension."""
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
        for dim in value_info.type.tensor_type.shape.dim
    ]


def set_dim(value_info: onnx.ValueInfoProto, axis: int, size: int | str) -> None:
    dim = value_info.type.tensor_type.shape.dim[axis]
    if isinstance(size, int):
        dim.dim_value = size
    else:
        dim.dim_param = size


def describe_node(node: onnx.NodeProto) -> str:
    """Describe a node in messages: its type, and its name or first output."""
    return f"{node.op_type} {node.name or next(iter(node.output), '?')!r}"


def _constant(node: onnx.NodeProto) -> Values | None:
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            return numpy_helper.to_array(value)
        if attribute.name in {"value_int", "value_ints"}:
            return np.array(value, np.int64)
        if attribute.name in {"value_float", "value_floats"}:
            return np.array(value, np.float32)
    return None
