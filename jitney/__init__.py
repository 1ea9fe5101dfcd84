"""What tasks and engines of a model's own are written with (docs/models.md); nothing else here is an interface.

Task                  the contract of a task; a class in the model's folder derives from it, or from one of these four:
ImageClassification, ImageEmbedding, ObjectDetection, TensorTask
ModelSpec             `model.toml` as it was read, which tasks and engines are made with
CustomEngine, TensorSpec     the contract of an engine, and what it says of each input and output
RunFailed             a run failed, and whose fault it was
Refused, RetryableError   an input is at fault; nothing is, and the next try may do
load_model, list_models          a model folder without a service (examples/one_file_demo.py)
"""

from jobs.contract.errors import Refused
from model_runtime.engine.custom_engine import CustomEngine
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.model import load_model
from model_runtime.repository.repository import list_models
from model_runtime.spec.model_toml import ModelSpec
from model_runtime.tasks import ImageClassification, ImageEmbedding, ObjectDetection, RetryableError, Task, TensorTask
from model_runtime.tensor_spec import TensorSpec

__all__ = [
    "CustomEngine",
    "ImageClassification",
    "ImageEmbedding",
    "ModelSpec",
    "ObjectDetection",
    "Refused",
    "RetryableError",
    "RunFailed",
    "Task",
    "TensorSpec",
    "TensorTask",
    "list_models",
    "load_model",
]
