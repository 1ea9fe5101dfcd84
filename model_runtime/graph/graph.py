"""Read and edit an ONNX graph by tensor name: shapes, constants, attributes and inserted nodes."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from model_runtime.graph.batch_axis import AxisState, BatchAxis, BatchSizeValues, Undetermined
from model_runtime.graph.observation import Observation, observe

PLACEHOLDER_BATCH_SIZE = 97  # substitutes a free batch size in shape inference; unlikely to be a real dimension
BATCH = "batch"
MAX_SHAPE_CONSTANT = 4096  # values; a smaller constant may be a shape

Values = NDArray[Any]


class Graph:
    """The main graph of a model. `changes`: descriptions.

    `batch`: its fixed batch size; if it `is_open`, the size of an observed run, or PLACEHOLDER_BATCH_SIZE.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        batch_axes: dict[str, int],
        row_shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Index the model's graph and infer its shapes.

        `batch_axes`: the batch dimension of each input that has one. `row_shapes`: shapes of one row, for a run that
        shows what shape inference does not; None: without a run.
        """
        self.model, self.graph = model, model.graph
        constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.inputs = inputs_of(model)
        self._constants: dict[str, Values | onnx.TensorProto] = dict(constants)
        for node in self.graph.node:
            if node.op_type == "Constant" and (value := _constant(node)) is not None:
                self._constants[node.output[0]] = value
        self.opset = max((opset.version for opset in model.opset_import if opset.domain in {"", "ai.onnx"}), default=1)
        declared = {value_info.name: dims_of(value_info) for value_info in self.inputs}
        fixed = [declared[name][axis] for name, axis in batch_axes.items() if declared[name]]
        self.batch = next((size for size in fixed if isinstance(size, int)), PLACEHOLDER_BATCH_SIZE)
        self.is_open = not any(isinstance(size, int) for size in fixed)
        self.changes: list[str] = []
        self._axes = batch_axes
        self._before: dict[str, list[onnx.NodeProto]] = {}  # a node's first output → the nodes inserted before it
        self._first: list[onnx.NodeProto] = []
        self._last: list[onnx.NodeProto] = []
        self._name_count = 0
        self._observed: Observation | None = None
        self._shapes = self._infer()
        if row_shapes is not None:
            self._observed = observe(model, declared, batch_axes, row_shapes, self._shapes)
        if self._observed is not None:
            self.batch = self._observed.batch
            self._shapes = self._infer()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape for a batch of `batch`. Raises Undetermined if it is unknown."""
        if name in self._constants:
            return tuple(self.constant(name).shape)
        shape = self._shapes.get(name)
        if shape is None and self._observed is not None:
            shape = self._observed.shapes.get(name)
        if shape is None:
            message = f"the shape of {name!r} is unknown"
            raise Undetermined(message)
        return shape

    def constant(self, name: str) -> Values:
        """Return a constant's values. Raises KeyError if the tensor is not a constant."""
        value = self._constants[name] if name in self._constants else self._observed_values()[name]
        if isinstance(value, onnx.TensorProto):
            value = self._constants[name] = numpy_helper.to_array(value)
        return value

    def is_constant(self, name: str) -> bool:
        """Return true if the values are in the file, or were observed. The caller knows that no input changes them."""
        return name in self._constants or name in self._observed_values()

    def observed_rows(self, name: str) -> AxisState:
        """Return how a tensor that is computed from the batch size alone depends on it, by runs of two sizes."""
        observed = self._observed
        if observed is None or name not in observed.other_values:
            return BatchSizeValues()
        first, second = observed.values[name], observed.other_values[name]
        if first.shape == second.shape:
            return None if np.array_equal(first, second, equal_nan=first.dtype.kind == "f") else BatchSizeValues()
        follows = [at for at, sides in enumerate(zip(first.shape, second.shape, strict=False)) if sides[0] != sides[1]]
        if first.ndim != second.ndim or len(follows) != 1:
            return BatchSizeValues()
        axis = follows[0]
        group, rest = divmod(first.shape[axis], observed.batch)
        if rest or not group or second.shape[axis] != group * observed.other_batch:
            return BatchSizeValues()
        row = first.take(range(group), axis)
        repeated = (np.concatenate([row] * size, axis) for size in (observed.batch, observed.other_batch))
        is_equal = all(np.array_equal(*pair) for pair in zip(repeated, (first, second), strict=True))
        return BatchAxis(axis, group) if is_equal else BatchSizeValues()

    def own_row_axis(self, name: str) -> int | None:
        """Return the axis along which the first of these indices counts the rows of the batch, in both runs."""
        observed = self._observed
        if observed is None or name not in observed.other_values:
            return None
        both = ((observed.batch, observed.values[name]), (observed.other_batch, observed.other_values[name]))
        first, second = (_counting_axis(values[..., 0], size) for size, values in both)
        return first if first == second else None

    def _observed_values(self) -> Mapping[str, Values]:
        return self._observed.values if self._observed else {}

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
                for axis, size in enumerate(self._observed.inputs[value_info.name] if self._observed else ()):
                    set_dim(value_info, axis, size)
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


def _counting_axis(values: Values, size: int) -> int | None:
    """Return the axis along which the values are 0, 1, … `size` - 1, or None."""
    for axis in range(values.ndim):
        count = np.arange(size).reshape([-1 if at == axis else 1 for at in range(values.ndim)])
        if values.shape[axis] == size and (values == count).all():
            return axis
    return None


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
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param or "?"
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


def all_nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    """Yield the nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
                yield from all_nodes(subgraph)
