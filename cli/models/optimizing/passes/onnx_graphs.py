"""Reading, raising, simplifying and writing graphs: what every kind of optimization begins or ends with."""

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx
from onnx import version_converter
from onnxruntime.quantization.shape_inference import quant_pre_process

from model_runtime.repository.host_memory import format_bytes
from model_runtime.spec.model_toml import ModelError

MAX_PROTOBUF_BYTES: Final = 2**31 - 1
MIN_IR_VERSION: Final = 7  # which opset 13 came with


def read(path: Path) -> onnx.ModelProto:
    """With its weights, and none of them declared as an input besides; raises ModelError."""
    try:
        model = onnx.load(path)
    except Exception as error:  # the package's errors, protobuf's and the system's share no base
        raise ModelError(path, None, f"can not be read as an ONNX model: {error}") from error
    constants = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    """In one file; raises ModelError where that has no room for it, and OSError where the disk has none."""
    if model.ByteSize() > MAX_PROTOBUF_BYTES:
        size, limit = format_bytes(model.ByteSize()), format_bytes(MAX_PROTOBUF_BYTES)
        reason = f"would have {size} with its weights; allowed in one file: {limit}"
        raise ModelError(path.name, None, reason)
    onnx.save(model, path)
    return path


def is_half(model: onnx.ModelProto) -> bool:
    """Whether it has FP16 weights."""
    return any(one.data_type == onnx.TensorProto.FLOAT16 for one in model.graph.initializer)


def opset(model: onnx.ModelProto) -> int:
    """Of ONNX's own operators."""
    return max((one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}), default=1)


def upgrade_opset(model: onnx.ModelProto, least: int, source: Path) -> onnx.ModelProto:
    """As it is where it is new enough; raises ModelError where an operator can not be carried over."""
    if opset(model) >= least:
        return model
    try:
        newer = version_converter.convert_version(model, least)
    except Exception as error:  # it raises RuntimeError for some, its own for others
        reason = f"its opset {opset(model)} can not be raised to {least}, which int8 needs: {one_line(error)}"
        raise ModelError(source, None, f"{reason}; allowed: the model, exported for opset {least} or newer") from error
    newer.ir_version = max(newer.ir_version, MIN_IR_VERSION)
    return newer


def simplify(source: Path, target: Path, *, optimize: bool) -> Path:
    """Constants folded, what does nothing removed, batch norms in their convolutions, and every shape written down.

    ONNX Runtime's "basic" level, which is plain ONNX and runs anywhere; the levels above it write operators and layouts
    of this very processor, and a worker applies them by itself when it loads the model. `optimize` False: shapes alone.
    """
    with silence_logging():
        try:
            quant_pre_process(str(source), str(target), skip_optimization=not optimize)
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - shapes by symbols fail on some graphs that are well without them
            quant_pre_process(str(source), str(target), skip_optimization=not optimize, skip_symbolic_shape=True)
    return target


@contextlib.contextmanager
def silence_logging() -> Iterator[None]:
    """Let the tools work without a word: what matters is told by us, once."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            open(os.devnull, "w", encoding="utf-8") as nowhere,  # noqa: PTH123 - a device, not a path of ours
            contextlib.redirect_stdout(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def one_line(error: Exception) -> str:
    text = re.sub(r"^.* Assertion `.*?` failed: ", "", " ".join(str(error).split()))  # where in its sources
    return text if len(text) <= 200 else f"{text[:197]}..."
