"""Reads an ONNX file with its weights and checks the size of one to write; for the doctor and the optimizer."""

from pathlib import Path
from typing import Final

import onnx

from model_runtime.repository.host_memory import format_bytes
from model_runtime.spec.model_toml import ModelError

MAX_PROTOBUF_BYTES: Final = 2**31 - 1


def read(path: Path) -> onnx.ModelProto:
    """Read a model with its weights. Raises ModelError."""
    try:
        return onnx.load(path)
    except Exception as error:  # onnx, protobuf and the system raise errors without a common base
        raise ModelError(path, None, f"cannot be read as an ONNX model: {error}") from error


def check_size(model: onnx.ModelProto, path: Path | str, option: str | None = None) -> None:
    """Raise ModelError if a model exceeds the limit of one file. `path`, `option`: where to report it."""
    if model.ByteSize() > MAX_PROTOBUF_BYTES:
        size, limit = format_bytes(model.ByteSize()), format_bytes(MAX_PROTOBUF_BYTES)
        raise ModelError(path, option, f"would have {size} with its weights; the limit of one file is {limit}")
