"""Reads, writes, upgrades and simplifies ONNX graphs, for all passes; silences the tools that do so."""

import contextlib
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import onnx
from onnx import version_converter
from onnxruntime.quantization.shape_inference import quant_pre_process

from cli.models import onnx_files
from model_runtime.spec.model_toml import ModelError

MIN_IR_VERSION: Final = 7  # introduced with opset 13


def read(path: Path) -> onnx.ModelProto:
    """Read a model with its weights, and remove weights from its inputs. Raises ModelError."""
    model = onnx_files.read(path)
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model to one file. Raises ModelError if it exceeds the limit of protobuf, and OSError."""
    onnx_files.check_size(model, path.name)
    onnx.save(model, path)
    return path


def is_half(model: onnx.ModelProto) -> bool:
    """Return whether a model has FP16 weights."""
    return any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in model.graph.initializer)


def opset(model: onnx.ModelProto) -> int:
    """Return the opset version of the standard ONNX operators."""
    return max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=1)


def upgrade_opset(model: onnx.ModelProto, minimum: int, source: Path) -> onnx.ModelProto:
    """Convert a model to a minimum opset. Raises ModelError if an operator cannot be converted."""
    if opset(model) >= minimum:
        return model
    try:
        newer = version_converter.convert_version(model, minimum)
    except Exception as error:  # RuntimeError, or an error of its own
        reason = f"cannot upgrade its opset {opset(model)} to {minimum}: {one_line(error)}"
        raise ModelError(source, None, f"{reason}; allowed: an export with opset {minimum} or newer") from error
    newer.ir_version = max(newer.ir_version, MIN_IR_VERSION)
    return newer


def simplify(source: Path, target: Path, *, optimize: bool) -> Path:
    """Fold constants, remove no-ops, fuse batch norms into convolutions, and infer all shapes.

    This is the "basic" level of ONNX Runtime, whose result is portable ONNX. Higher levels depend on the CPU; workers
    apply them when they load the model. `optimize` False: only infer shapes.
    """
    whole = partial(quant_pre_process, str(source.resolve()), str(target.resolve()), skip_optimization=not optimize)
    # Where symbolic shape inference fails, ONNX Runtime leaves the model in the current folder.
    with silence_logging(), tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        try:
            whole()
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - symbolic shape inference fails on some valid graphs
            whole(skip_symbolic_shape=True)
    return target


@contextlib.contextmanager
def silence_logging() -> Iterator[None]:
    """Silence logging, warnings and stdout of the tools; failures are reported by exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            open(os.devnull, "w", encoding="utf-8") as devnull,  # noqa: PTH123 - a device
            contextlib.redirect_stdout(devnull),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def one_line(error: Exception) -> str:
    text = re.sub(r"^.* Assertion `.*?` failed: ", "", " ".join(str(error).split()))  # its source location
    return text if len(text) <= 200 else f"{text[:197]}..."
