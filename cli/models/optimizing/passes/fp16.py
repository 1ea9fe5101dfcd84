"""Converts weights and arithmetic to FP16; inputs and outputs keep their types."""

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from cli.models.optimizing.passes import onnx_graphs
from model_runtime.spec.model_toml import ModelError


def write(source: Path, target: Path, title: Path) -> None:
    """Convert a file. Raises ModelError if it has no FP32 weights or cannot be converted."""
    model = onnx_graphs.read(source)
    if not any(weight.data_type == onnx.TensorProto.FLOAT for weight in model.graph.initializer):
        raise ModelError(title, "--fp16", "it has no FP32 weights; allowed: a model that has some")
    try:
        with onnx_graphs.silence_logging():
            converted = convert_float_to_float16(model, keep_io_types=True)
    except Exception as error:  # the converter raises errors without a common base
        raise ModelError(title, "--fp16", f"cannot be converted: {onnx_graphs.one_line(error)}") from error
    onnx_graphs.save(converted, target)
