"""FP16: weights and arithmetic of half the width; inputs and outputs stay as they are."""

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from cli.models.optimizing.passes import onnx_graphs
from model_runtime.spec.model_toml import ModelError


def write(source: Path, target: Path, title: Path) -> None:
    """Raises ModelError where there is nothing to halve, or it can not be done."""
    model = onnx_graphs.read(source)
    if not any(one.data_type == onnx.TensorProto.FLOAT for one in model.graph.initializer):
        raise ModelError(title, "--fp16", "it has no FP32 weights; allowed: a model that has some")
    try:
        with onnx_graphs.silence_logging():
            halved = convert_float_to_float16(model, keep_io_types=True)
    except Exception as error:  # its errors share no base
        raise ModelError(title, "--fp16", f"can not be converted: {onnx_graphs.one_line(error)}") from error
    onnx_graphs.save(halved, target)
