"""Define batch axis rules for operators that compute, and list the rules of all operators in one table.

A graph with an operator that has no rule is reported as undetermined, with the operator's name.
"""

from collections.abc import Callable, Mapping
from typing import Final

from model_runtime.graph import reshape_rules
from model_runtime.graph.batch_axis import (
    AxisState,
    BatchAxis,
    BatchSizeValues,
    RowsCoupled,
    Undetermined,
    WrongBatchAxis,
)
from model_runtime.graph.operator import OperatorStep, normalize_axis

Rule = Callable[[OperatorStep], "AxisState | list[AxisState]"]

_POINTWISE: Final = """
Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil
Celu Clip Cos Cosh DequantizeLinear Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid
HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow
QuantizeLinear Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh
ThresholdedRelu Where Xor FastGelu QuickGelu BiasGelu QLinearAdd QLinearMul QLinearSigmoid QLinearLeakyRelu
""".split()  # noqa: SIM905 - a table of names is easier to read as words
# The first dimension is the batch by definition.
_IMAGES: Final = """
AveragePool BatchNormalization Conv ConvInteger ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool GlobalMaxPool
GridSample GroupNormalization InstanceNormalization LRN LpPool MaxPool QLinearConv Resize SpaceToDepth Upsample
FusedConv QLinearAveragePool QLinearGlobalAveragePool Attention MultiHeadAttention EmbedLayerNormalization
""".split()  # noqa: SIM905 - a table of names is easier to read as words
# Of these, the operators whose other inputs are weights, shared by all rows.
_WEIGHTED: Final = frozenset(
    {"BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "FusedConv", "InstanceNormalization", "QLinearConv"}
)
_ALONG_AXIS: Final[Mapping[str, int]] = {  # → the default axis
    "ArgMax": 0, "ArgMin": 0, "Hardmax": -1, "LogSoftmax": -1, "LpNormalization": -1, "Softmax": -1, "TopK": -1,
    "LayerNormalization": -1, "RMSNormalization": -1, "SimplifiedLayerNormalization": -1, "SkipLayerNormalization": -1,
}  # fmt: skip
_REDUCE: Final = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
# Of ai.onnx.ml: rows of features → results.
_FEATURES: Final = """
LinearClassifier LinearRegressor Normalizer SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier
TreeEnsembleRegressor ZipMap
""".split()  # noqa: SIM905 - as above
# With any attributes, a row's result depends on other rows, or there is one result for the whole batch.
_COUPLED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"),
        "it computes one scale for the whole batch",
    ),
    "NonMaxSuppression": "it returns one list for the whole batch",
    "NonZero": "it returns one list for the whole batch",
    "Unique": "it returns one list for the whole batch",
    "Compress": "it selects elements of the whole batch",
    "RoiAlign": "its regions point into the whole batch",
    "MaxRoiPool": "its regions point into the whole batch",
    "MaxUnpool": "its indices point into the whole batch",
    "Det": "it treats the batch as a dimension of a matrix",
}


def pointwise(step: OperatorStep) -> AxisState:
    """Elementwise operators with broadcasting: each row is combined only with itself."""
    rank = max(len(step.shape(at)) for at in range(len(step.states)) if step.has_input(at))
    batched = {
        at: state._replace(axis=state.axis + rank - len(step.shape(at)))
        for at, state in enumerate(step.states)
        if isinstance(state, BatchAxis)
    }
    if len(set(batched.values())) != 1:
        raise RowsCoupled("it broadcasts the rows of one input over those of another")
    rows = next(iter(batched.values()))
    for at in range(len(step.states)):
        if at not in batched and step.has_input(at):
            axis = rows.axis - rank + len(step.shape(at))
            side = step.shape(at)[axis] if axis >= 0 else 1
            if side != 1 and rows.group != 1:  # one value per entry of the folded dimension
                raise Undetermined("it combines a constant with rows that are folded with another dimension")
            if side != 1:
                step.expand_constant(at, axis, next(iter(batched)))
    return rows


def image(step: OperatorStep) -> AxisState | list[AxisState]:
    rows = step.rows
    if rows.axis != 0:
        raise RowsCoupled(f"it expects the batch in the first dimension, but it is in dimension {rows.axis + 1}")
    if step.attr("training_mode", 0) or (step.node.op_type == "BatchNormalization" and len(step.node.output) > 1):
        raise RowsCoupled("it is in training mode and normalises over the batch")
    if step.node.op_type in _WEIGHTED:
        step.require_unbatched_others()
    if step.node.op_type == "MaxPool" and len(step.node.output) > 1:
        return [rows, BatchSizeValues()]  # indices into the whole batch
    return rows


def reduce_(step: OperatorStep) -> AxisState:
    rank = len(step.shape())
    axes = step.axes("axes", 1)
    if not axes and step.attr("noop_with_empty_axes", 0):
        return step.rows
    return _combine(step, [normalize_axis(axis, rank) for axis in axes or range(rank)], step.attr("keepdims", 1))


def along_axis(step: OperatorStep) -> AxisState | list[AxisState]:
    kind, rank = step.node.op_type, len(step.shape())
    is_old = kind in {"Softmax", "LogSoftmax", "Hardmax"} and step.graph.opset < 13
    axis = normalize_axis(step.attr("axis", 1 if is_old else _ALONG_AXIS[kind]), rank)
    if kind in {"ArgMax", "ArgMin"}:
        return _combine(step, [axis], step.attr("keepdims", 1))
    if is_old or ("Normalization" in kind and kind != "LpNormalization"):  # over this axis and all after it
        return _combine(step, list(range(axis, rank)), 1)
    return _combine(step, [axis], 1)


def cumulative_sum(step: OperatorStep) -> AxisState:
    return _combine(step, [normalize_axis(int(step.constant(1).ravel()[0]), len(step.shape()))], 1)


def mean_variance(step: OperatorStep) -> AxisState:
    """MeanVarianceNormalization: the default axes are batch, height and width."""
    axes = [normalize_axis(axis, len(step.shape())) for axis in step.attr("axes", [0, 2, 3])]
    return _combine(step, axes, 1)


def matmul(step: OperatorStep) -> AxisState:
    """[..., m, k] times [..., k, n]: the batch may be in any dimension except k."""
    second = {"QLinearMatMul": 3}.get(step.node.op_type, 1)
    axes = []
    for at, summed in ((0, -1), (second, -2)):
        state, shape = step.states[at], step.shape(at)
        if isinstance(state, BatchAxis):
            if len(shape) == 1 or state.axis == len(shape) + summed:
                raise RowsCoupled("it sums over the batch")
            axes.append(state._replace(axis=state.axis - len(shape)))  # counted from the end, as in broadcasting
    if len(set(axes)) > 1 or (len(axes) == 2 and axes[0].axis >= -2):
        raise RowsCoupled("it multiplies the rows of one input by those of the other")
    first_rank, second_rank = len(step.shape(0)), len(step.shape(second))
    rank = max(first_rank, second_rank) - (min(first_rank, second_rank) == 1)
    axis = axes[0].axis + (second_rank == 1)
    for at in (0, second):  # a stack of constants, one per row of the batch
        shape = step.shape(at)
        if not isinstance(step.states[at], BatchAxis) and axis < -2 and len(shape) >= -axis and shape[axis] != 1:
            if axes[0].group != 1:
                raise Undetermined("it combines a constant with rows that are folded with another dimension")
            step.expand_constant(at, len(shape) + axis, 0 if at else second)
    return axes[0]._replace(axis=rank + axis)


def gemm(step: OperatorStep) -> AxisState:
    if isinstance(step.states[1], BatchAxis):
        raise Undetermined("its weights are computed from the rows")
    rows = step.rows
    if rows.axis != (1 if step.attr("transA", 0) else 0):
        raise RowsCoupled("it sums over the batch")
    if step.has_input(2) and not isinstance(step.states[2], BatchAxis):
        shape = step.shape(2)
        if len(shape) == 2 and shape[0] != 1:
            step.expand_constant(2, 0, 0)
    return rows._replace(axis=0)


def recurrent(step: OperatorStep) -> AxisState | list[AxisState]:
    """RNN, GRU, LSTM: time is the first dimension and the batch the second, unless `layout` is 1."""
    batch_first = step.attr("layout", 0)
    if step.rows != BatchAxis(0 if batch_first else 1):
        raise WrongBatchAxis("it expects time in the first dimension and the batch in the second")
    for at in (4, 5, 6):
        if at < len(step.states) and step.has_input(at) and not isinstance(step.states[at], BatchAxis):
            step.expand_constant(at, 0 if batch_first or at == 4 else 1, 0)
    state = BatchAxis(0 if batch_first else 1)
    return [BatchAxis(0 if batch_first else 2), state, state]


def feature_rows(step: OperatorStep) -> AxisState:
    """Operators of ai.onnx.ml: rows of features first, and one result for each in every output."""
    if step.rows != BatchAxis() or len(step.shape()) < 2:
        message = "it expects rows of features in the first dimension"
        raise Undetermined(message)
    return BatchAxis()


def same_axis(step: OperatorStep) -> AxisState:
    """Operators that change each value, or add dimensions after the last one."""
    return step.rows


def quantized_matmul(step: OperatorStep) -> AxisState:
    """MatMulNBits: rows times weights."""
    if step.rows.axis == len(step.shape()) - 1:
        message = "it sums over the batch"
        raise RowsCoupled(message)
    step.require_unbatched_others()
    return step.rows


def shape_of(_: OperatorStep) -> AxisState:
    return BatchSizeValues()


def coupled(step: OperatorStep) -> AxisState:
    raise RowsCoupled(_COUPLED[step.node.op_type])


def _combine(step: OperatorStep, axes: list[int], keepdims: int) -> AxisState:
    """Return the batch axis after an operator that combines these axes."""
    if step.rows.axis in axes:
        raise RowsCoupled("it works along the batch: one row's result depends on other rows")
    return step.rows if keepdims else step.rows._replace(axis=step.rows.axis - sum(a < step.rows.axis for a in axes))


RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(_POINTWISE, pointwise),
    **dict.fromkeys(_IMAGES, image),
    **dict.fromkeys(_ALONG_AXIS, along_axis),
    **{f"Reduce{kind}": reduce_ for kind in _REDUCE},
    **dict.fromkeys(_COUPLED, coupled),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), recurrent),
    **dict.fromkeys(_FEATURES, feature_rows),
    **dict.fromkeys(("Binarizer", "Imputer", "LabelEncoder", "CategoryMapper", "OneHotEncoder", "OneHot"), same_axis),
    "MatMulNBits": quantized_matmul,
    **dict.fromkeys(("Shape", "Size"), shape_of),
    "CumSum": cumulative_sum,
    "MeanVarianceNormalization": mean_variance,
    "MatMul": matmul,
    "MatMulInteger": matmul,
    "QLinearMatMul": matmul,
    "Gemm": gemm,
    **reshape_rules.RULES,
}
