"""Public Python API: custom tasks, custom engines, and models without the service (docs/how-to/custom-tasks.md).

Task                       base class of every task
AudioClassification, AudioEmbedding, ImageClassification, ImageEmbedding, ImageSegmentation,
ObjectDetection, TabularTask, TensorTask,
TextClassification, TextEmbedding, TextRanking, TokenClassification
                           built-in tasks, which a custom task may also derive from
ModelSpec                  the parsed `model.toml`, passed to tasks and engines
CustomEngine, TensorSpec   the protocol of an engine, and the description of one input or output
RunFailed                  raised by an engine when a run fails; names the cause
decode_audio               decode an audio file to samples, for a custom task of the kind "audio"
Refused, RetryableError    raised by a task when the input is invalid, or when a retry may succeed
load_model, list_models    use a model folder without the service (examples/one_file_demo.py)

Modules of other packages are not part of the API.
"""

from jobs.contract.errors import Refused
from model_runtime.audio.decode import decode_audio
from model_runtime.engine.custom_engine import CustomEngine
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.model import load_model
from model_runtime.repository.repository import list_models
from model_runtime.spec.model_toml import ModelSpec
from model_runtime.tasks import (
    AudioClassification,
    AudioEmbedding,
    ImageClassification,
    ImageEmbedding,
    ImageSegmentation,
    ObjectDetection,
    RetryableError,
    TabularTask,
    Task,
    TensorTask,
    TextClassification,
    TextEmbedding,
    TextRanking,
    TokenClassification,
)
from model_runtime.tensor_spec import TensorSpec

__all__ = [
    "AudioClassification",
    "AudioEmbedding",
    "CustomEngine",
    "ImageClassification",
    "ImageEmbedding",
    "ImageSegmentation",
    "ModelSpec",
    "ObjectDetection",
    "Refused",
    "RetryableError",
    "RunFailed",
    "TabularTask",
    "Task",
    "TensorSpec",
    "TensorTask",
    "TextClassification",
    "TextEmbedding",
    "TextRanking",
    "TokenClassification",
    "decode_audio",
    "list_models",
    "load_model",
]
