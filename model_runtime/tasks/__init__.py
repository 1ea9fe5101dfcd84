"""Create the task that `model.toml` names: a built-in task, or a class in a file of the model's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from jobs.contract.input_fields import SINGLE_INPUT_FIELDS
from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.engine.open_engine import AnyEngine
from model_runtime.repository.module_loading import load_module
from model_runtime.repository.onnx_file import read_metadata
from model_runtime.repository.path_checks import check_file
from model_runtime.repository.repository import ModelFolder
from model_runtime.spec.metadata_defaults import fill_from_file
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tasks.audio.audio_classification import AudioClassification
from model_runtime.tasks.audio.audio_embedding import AudioEmbedding
from model_runtime.tasks.image_classification import ImageClassification
from model_runtime.tasks.image_embedding import ImageEmbedding
from model_runtime.tasks.image_segmentation import ImageSegmentation
from model_runtime.tasks.object_detection import ObjectDetection
from model_runtime.tasks.tabular import TabularTask
from model_runtime.tasks.task import KINDS, RetryableError, Task
from model_runtime.tasks.tensor import TensorTask
from model_runtime.tasks.text.text_classification import TextClassification
from model_runtime.tasks.text.text_embedding import TextEmbedding
from model_runtime.tasks.text.text_ranking import TextRanking
from model_runtime.tasks.text.text_task import TextTask
from model_runtime.tasks.text.token_classification import TokenClassification
from model_runtime.tensor_spec import TensorSpec

__all__ = [
    "AudioClassification",
    "AudioEmbedding",
    "ImageClassification",
    "ImageEmbedding",
    "ImageSegmentation",
    "ObjectDetection",
    "RetryableError",
    "TabularTask",
    "Task",
    "TensorTask",
    "TextClassification",
    "TextEmbedding",
    "TextRanking",
    "TextTask",
    "TokenClassification",
    "attach_task",
    "is_custom",
    "load_task",
]

_BUILT_IN: Final[dict[str, type[Task]]] = {
    "audio-classification": AudioClassification,
    "audio-embedding": AudioEmbedding,
    "image-classification": ImageClassification,
    "image-embedding": ImageEmbedding,
    "image-segmentation": ImageSegmentation,
    "object-detection": ObjectDetection,
    "tabular": TabularTask,
    "tensor": TensorTask,
    "text-classification": TextClassification,
    "text-embedding": TextEmbedding,
    "text-ranking": TextRanking,
    "token-classification": TokenClassification,
}


def is_custom(task: str) -> bool:
    """Return true if `task` of model.toml names user code."""
    return task not in _BUILT_IN


def load_task(spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Task:
    """Create the task for this model. Raises ModelError, also for any exception of user code."""
    if spec.task in _BUILT_IN:
        return _BUILT_IN[spec.task](spec, folder, inputs, outputs)
    file_name, _, class_name = spec.task.partition(":")
    file = folder / file_name
    check_file(folder, file, "task", folder / SPEC_FILE)
    try:
        task = _load_class(file, class_name)(spec, folder, inputs, outputs)
    except ModelError:
        raise
    except BaseException as error:  # user code must not stop other models
        raise ModelError(file, class_name, f"{type(error).__name__}: {error}") from error
    if not isinstance(task.kinds, frozenset | set) or not task.kinds or not task.kinds <= KINDS:
        raise ModelError(file, class_name, f"kinds = {task.kinds}; allowed: one or more of {sorted(KINDS)}")
    if "raw" in task.kinds and not (len(inputs) == 1 and inputs[0].is_fixed):
        reason = "kinds has raw, but the model has not one input of a fixed shape: every job would be refused"
        raise ModelError(file, class_name, f"{reason}; allowed: bytes, for bytes of any length")
    if "json" in task.kinds and not {*task.input_fields} <= {*SINGLE_INPUT_FIELDS}:
        allowed = ", ".join(SINGLE_INPUT_FIELDS)
        raise ModelError(file, class_name, f"input_fields = {task.input_fields}; allowed: some of {allowed}")
    return task


def attach_task(folder: ModelFolder, engine: AnyEngine) -> Task:
    """Create the task of an engine's model, and set the engine's free dimensions to the sizes that the task makes.

    Raises ModelError.
    """
    spec, outputs = folder.spec, list(engine.outputs)
    used: Sequence[str] = ()
    if isinstance(engine, OnnxEngine):
        metadata, file = read_metadata(folder.onnx), folder.path / SPEC_FILE
        spec, labels, used = fill_from_file(spec, metadata, engine.inputs, outputs, file)
        if labels:
            outputs[0] = outputs[0]._replace(labels=tuple(labels))
    task = load_task(spec, folder.path, engine.inputs, outputs)
    task.from_file = [*task.from_file, *used]
    shapes = {name: shape for name, shape in task.row_shapes.items() if -1 not in shape}
    engine.inputs = [
        tensor_spec._replace(shape=shapes.get(tensor_spec.name, tensor_spec.shape)) for tensor_spec in engine.inputs
    ]
    return task


def _load_class(file: Path, name: str) -> type[Task]:
    module = load_module(file)
    task_class: Any = getattr(module, name, None)
    if not (isinstance(task_class, type) and issubclass(task_class, Task)):
        raise ModelError(file, name, "is not a class in this file derived from jitney.Task")
    return task_class
