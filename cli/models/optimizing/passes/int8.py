"""Static INT8 quantization: weights scaled per channel, activations calibrated with examples.

The result has QuantizeLinear and DequantizeLinear around each operator (QDQ), which ONNX Runtime and TensorRT fuse.
"""

import platform
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from cli.models.optimizing.passes import onnx_graphs
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Array

MIN_OPSET: Final = 13  # the first with per-channel scales
GPU_PROVIDERS: Final = frozenset({"cuda", "tensorrt"})
_WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_QUANTIZABLE: Final = (QDQRegistry.keys() | QLinearOpsRegistry.keys()) - {"Softmax"}
_HELPER_OPERATORS: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "Constant", "Identity"})


class _CalibrationReader(CalibrationDataReader):  # type: ignore[misc]  # an untyped package
    """Returns what the runtime takes for one row at a time."""

    def __init__(self, feeds: Iterable[dict[str, Array]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def write(source: Path, target: Path, title: Path, feeds: Iterable[dict[str, Array]], provider: str) -> list[str]:
    """Calibrate with `feeds`, quantize and write; return notes. Raises ModelError if nothing can be quantized."""
    model = onnx_graphs.read(source)
    _check_quantizable(model, title)
    for number, node in enumerate(model.graph.node):  # excluded nodes need names
        node.name = node.name or f"{node.op_type}_{number}"
    onnx_graphs.save(model, source)
    symmetric = provider in GPU_PROVIDERS  # TensorRT requires it
    try:
        with onnx_graphs.silence_logging():
            quantize_static(
                str(source),
                str(target),
                _CalibrationReader(feeds),
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
    except Exception as error:  # the quantizer raises errors without a common base
        raise ModelError(title, "--int8", f"cannot be quantized: {onnx_graphs.one_line(error)}") from error
    return _describe_operators(onnx_graphs.read(target), title, seven_bits=not symmetric and _has_saturating_int8())


def _check_quantizable(model: onnx.ModelProto, title: Path) -> None:
    operators = Counter(node.op_type for node in model.graph.node)
    if operators["QuantizeLinear"]:
        raise ModelError(title, "--int8", "it is already quantized; allowed: its original version")
    if not operators.keys() & _WEIGHTED:
        present, weighted = _list_operators(operators), _list_operators(_WEIGHTED)
        reason = f"none of its operators benefits: {present}; allowed: a model with {weighted}"
        raise ModelError(title, "--int8", reason)


def _output_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the nodes after the last weighted operator before each output: cheap, but sensitive to quantization."""
    producers = {output: node for node in model.graph.node for output in node.output}
    pending = [output.name for output in model.graph.output]
    last: dict[str, None] = {}
    while pending:
        node = producers.get(pending.pop())
        if node is not None and node.op_type not in _WEIGHTED and node.name not in last:
            last[node.name] = None
            pending += node.input
    return [*last]


def _has_saturating_int8() -> bool:
    """Return whether INT8 products overflow 16 bits (x86 without VNNI); weights then need 7 bits."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return True


def _describe_operators(model: onnx.ModelProto, title: Path, *, seven_bits: bool) -> list[str]:
    """Return notes on which operators run in INT8. Raises ModelError if no weighted operator does."""
    from_int = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    quantized: Counter[str] = Counter()
    unquantized: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type not in _HELPER_OPERATORS:
            is_quantized = node.op_type in _QUANTIZABLE and any(name in from_int for name in node.input[:1])
            (quantized if is_quantized else unquantized)[node.op_type] += 1
    if not quantized.keys() & _WEIGHTED:
        raise ModelError(title, "--int8", f"no operator could be quantized; it has {_list_operators(unquantized)}")
    lines = [f"in int8: {_list_operators(quantized)}"]
    if unquantized:
        lines.append(f"left in float: {_list_operators(unquantized)}")
    if seven_bits:
        lines.append("weights have 7 bits: 8 would overflow on this CPU, which has no VNNI")
    return lines


def _list_operators(operators: Iterable[str]) -> str:
    counts = operators if isinstance(operators, Counter) else dict.fromkeys(sorted(operators), 0)
    return ", ".join(f"{name} {count}" if count else name for name, count in counts.items())
