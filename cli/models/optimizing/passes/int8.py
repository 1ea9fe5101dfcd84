"""Static int8: weights of a scale by the channel, activations by what examples of the user's own have shown.

Written as QuantizeLinear and DequantizeLinear around each operator (QDQ), which ONNX Runtime and TensorRT fuse.
"""

import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from cli.models.optimizing.passes import onnx_graphs
from model_runtime.profiling.synthetic_inputs import Row
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Array

MIN_OPSET: Final = 13  # the first with a scale by the channel
GPU_PROVIDERS: Final = frozenset({"cuda", "tensorrt"})
_WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_QUANTIZABLE: Final = (QDQRegistry.keys() | QLinearOpsRegistry.keys()) - {"Softmax"}
_HELPER_OPERATORS: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "Constant", "Identity"})


class _CalibrationReader(CalibrationDataReader):  # type: ignore[misc]  # its package has no types
    """Hands over a row at a time, as a batch of one."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: Iterator[Row] = iter(rows)

    def get_next(self) -> dict[str, Array] | None:
        row = next(self._rows, None)
        return None if row is None else {name: array[np.newaxis] for name, array in row.items()}


def write(source: Path, target: Path, title: Path, rows: Iterable[Row], provider: str) -> list[str]:
    """Calibrate and write; gives what is to be said of it. Raises ModelError where nothing of it can be quantized."""
    model = onnx_graphs.read(source)
    _check_quantizable(model, title)
    for number, node in enumerate(model.graph.node):  # what is left out is left out by name
        node.name = node.name or f"{node.op_type}_{number}"
    onnx_graphs.save(model, source)
    symmetric = provider in GPU_PROVIDERS  # TensorRT takes no other
    try:
        with onnx_graphs.silence_logging():
            quantize_static(
                str(source),
                str(target),
                _CalibrationReader(rows),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=sorted(_QUANTIZABLE),
                nodes_to_exclude=_output_nodes(model),
                per_channel=True,
                reduce_range=not symmetric and _has_saturating_int8(),
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
            )
    except (OSError, MemoryError):
        raise
    except Exception as error:  # its errors share no base
        raise ModelError(title, "--int8", f"can not be quantized: {onnx_graphs.one_line(error)}") from error
    return _describe_operators(onnx_graphs.read(target), title, seven_bits=not symmetric and _has_saturating_int8())


def _check_quantizable(model: onnx.ModelProto, title: Path) -> None:
    there = Counter(node.op_type for node in model.graph.node)
    if there["QuantizeLinear"]:
        raise ModelError(title, "--int8", "it is in int8 already; allowed: the version it was made from")
    if not there.keys() & _WEIGHTED:
        present, weighted = _list_operators(there), _list_operators(_WEIGHTED)
        reason = f"none of its operators gain by it: {present}; allowed: a model with {weighted}"
        raise ModelError(title, "--int8", reason)


def _output_nodes(model: onnx.ModelProto) -> list[str]:
    """What comes after the last weights on the way to each output: cheap, and coarse numbers there are seen at once."""
    makers = {output: node for node in model.graph.node for output in node.output}
    waiting = [output.name for output in model.graph.output]
    last: dict[str, None] = {}
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.op_type not in _WEIGHTED and node.name not in last:
            last[node.name] = None
            waiting += node.input
    return [*last]


def _has_saturating_int8() -> bool:
    """Whether sums of two products overflow their 16 bits: x86 without VNNI. Seven bits of weight then have to do."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return True


def _describe_operators(model: onnx.ModelProto, title: Path, *, seven_bits: bool) -> list[str]:
    """Which operators run in int8 now and which were left in float, by name."""
    from_int = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    inside: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type not in _HELPER_OPERATORS:
            is_inside = node.op_type in _QUANTIZABLE and any(name in from_int for name in node.input[:1])
            (inside if is_inside else left)[node.op_type] += 1
    if not inside.keys() & _WEIGHTED:
        raise ModelError(title, "--int8", f"nothing of it could be quantized; it has {_list_operators(left)}")
    lines = [f"in int8: {_list_operators(inside)}"]
    if left:
        lines.append(f"left in float: {_list_operators(left)}")
    if seven_bits:
        lines.append("weights have 7 bits: this processor has no VNNI, and would overflow with 8")
    return lines


def _list_operators(operators: Iterable[str]) -> str:
    counts = operators if isinstance(operators, Counter) else dict.fromkeys(sorted(operators), 0)
    return ", ".join(f"{name} {count}" if count else name for name, count in counts.items())
