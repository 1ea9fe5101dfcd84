"""Define and read `model.toml`, and report errors as one line that says what is wrong and what is allowed.

A version folder may contain its own `model.toml`, which overrides single keys. The task checks the settings against the
model's inputs and outputs. docs/explanation/decisions/model-folders-and-tasks.md
"""

import codecs
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from model_runtime.spec.audio import AudioSpec
from model_runtime.spec.image import ImageSpec
from model_runtime.spec.tensors import AXIS_ALLOWED, Axis, InputSpec, OutputSpec, PaddingSpec, read_outputs
from model_runtime.spec.text import TEXT_TASKS, TextSpec

__all__ = ["AudioSpec", "ClassificationSpec", "ImageSpec", "ModelError", "ModelSpec", "RetrySpec", "read_spec"]

SPEC_FILE: Final = "model.toml"
_TASKS: Final = (
    *("image-classification", "image-embedding", "image-segmentation", "object-detection"),
    *("audio-classification", "audio-embedding"),
    *("tabular", "tensor", *TEXT_TASKS),
)
_FILE_NAME: Final = r"^[^/\\.][^/\\]*$"
Precision = Literal["fp32", "fp16", "int8"]


class ModelError(Exception):
    """A model on disk cannot be served. The message is one line: file, key, what is wrong and what is allowed."""

    def __init__(self, file: Path | str, key: str | None, reason: str) -> None:
        self.file = str(file)
        self.key = key
        self.reason = " ".join(reason.split())
        super().__init__(": ".join(part for part in (self.file, key, self.reason) if part))


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ClassificationSpec(_Section):
    """`[classification]`: how scores become labelled predictions."""

    labels: str | None = Field(
        None, pattern=_FILE_NAME, description="the name of a text file in the model's folder, one label per line"
    )
    softmax: bool = Field(True, description="true (the model returns scores), false (it returns probabilities)")
    top_k: int = Field(5, ge=1, le=100_000, description="a whole number from 1 to the number of classes")


class EmbeddingSpec(_Section):
    """`[embedding]`: how a model output becomes the vector of an image or of audio."""

    output: str | None = Field(None, description="the name of one of the model's outputs; if omitted, the first")
    normalize: bool = Field(True, description="true (scale to length 1), false (leave as the model returns it)")


class DetectionSpec(_Section):
    """`[detection]`: how outputs are read as boxes with class scores, and which boxes are kept."""

    labels: str | None = Field(
        None, pattern=_FILE_NAME, description="the name of a text file in the model's folder, one label per line"
    )
    format: Literal["yolo", "yolo-objectness", "boxes-scores", "box-score-class"] = Field(
        "yolo",
        description="yolo (one output: box, scores), yolo-objectness (one output: box, objectness, scores), "
        "boxes-scores (two outputs), box-score-class (one output of boxes that the model has selected)",
    )
    box: Literal["cxcywh", "xyxy", "yxyx"] | None = Field(
        None, description="cxcywh, xyxy, yxyx; if omitted, xyxy for box-score-class, else cxcywh"
    )
    relative: bool = Field(False, description="true (boxes as fractions of the input's sides), false (in input pixels)")
    scores: Literal["probability", "sigmoid", "softmax"] = Field(
        "probability", description="probability (unchanged), sigmoid, softmax (the last class is the background)"
    )
    score_threshold: float = Field(0.25, ge=0, le=1, description="a number from 0 to 1")
    iou_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="a number from 0 to 1 (1: keep overlapping boxes); if omitted, 1 for box-score-class, else 0.45",
    )
    max_detections: int = Field(100, ge=1, le=1000, description="a whole number from 1 to 1000")


class SegmentationSpec(_Section):
    """`[segmentation]`: how an output becomes the class of each pixel of the picture."""

    labels: str | None = Field(
        None, pattern=_FILE_NAME, description="the name of a text file in the model's folder, one label per line"
    )
    output: str | None = Field(None, description="the name of one of the model's outputs; if omitted, the first")
    layout: Literal["NCHW", "NHWC"] = Field("NCHW", description="NCHW (classes first), NHWC (classes last)")
    scores: Literal["probability", "sigmoid"] = Field(
        "probability",
        description="probability (unchanged), sigmoid (the model returns the logits of one class); "
        "of several classes the one of the largest score is chosen, whatever they are",
    )
    threshold: float = Field(0.5, ge=0, le=1, description="a number from 0 to 1: of the only class")


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise ValueError
    if len(set(value)) < len(value):
        raise ValueError
    return tuple(value)


class TabularSpec(_Section):
    """`[tabular]`: the names of columns and classes."""

    columns: Annotated[tuple[str, ...], BeforeValidator(_names)] | None = Field(
        None, description="a list of distinct names, one for each column; if omitted, the names of the model's inputs"
    )
    labels: str | None = Field(
        None, pattern=_FILE_NAME, description="the name of a text file in the model's folder, one label per line"
    )


class RetrySpec(_Section):
    """`[retry]`: retries of a job after a transient failure: out of memory, or a RetryableError of its task."""

    attempts: int = Field(3, ge=1, le=100, description="a whole number from 1 (no retry) to 100")
    backoff_ms: int = Field(1000, ge=0, le=3_600_000, description="milliseconds from 0 to 3600000, doubled each time")


class CudaSpec(_Section):
    """`[cuda]`: options of the CUDA provider."""

    graphs: bool = Field(
        True, description="true (record the runs of each bucket as a CUDA graph if the model allows it), false"
    )


class TensorrtSpec(_Section):
    """`[tensorrt]`: options of the TensorRT provider."""

    precision: Precision = Field("fp32", description="fp32, fp16, int8 (needs a quantized model)")


def _ascending(value: Any) -> tuple[int, ...]:
    is_list = isinstance(value, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
    if not is_list or not value or value != sorted(set(value)) or not 1 <= value[0] <= value[-1] <= 4096:
        raise ValueError
    return tuple(value)


class ModelSpec(_Section):
    """`model.toml`. The names of durations end in their unit. Every key except `task` has a default."""

    task: str = Field(
        pattern=rf"^({'|'.join(_TASKS)}|[A-Za-z0-9_][A-Za-z0-9_.-]*\.py:[A-Za-z_][A-Za-z0-9_]*)$",
        description=f"{', '.join(_TASKS)}, or file.py:ClassName of a file in the model's folder",
    )
    description: str = Field("", max_length=4000, description="text of at most 4000 characters")
    version: str | None = Field(
        None, pattern=r"^[0-9]{1,18}$", description='the number of a version folder in quotes, such as "2"'
    )
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field("auto", description="auto, cpu, cuda, tensorrt")
    engine: str | None = Field(
        None,
        pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):[A-Za-z_]\w*$",
        description="file.py:ClassName of a file in the model's folder, or module:ClassName of an installed one",
    )
    threads: int = Field(0, ge=0, le=1024, description="a whole number from 0 (all CPUs of the worker) to 1024")
    max_batch: int | None = Field(
        None, ge=1, le=4096, description="a whole number from 1 to 4096; if omitted, it is measured"
    )
    buckets: Annotated[tuple[int, ...], BeforeValidator(_ascending)] | None = Field(
        None,
        description="whole numbers from 1 to 4096, ascending: sizes that batches are padded to, such as [1, 4, 16]",
    )
    batching: Literal["auto", "off", "trust"] = Field(
        "auto", description="auto (batched if the check passes), off (one item a run), trust (batched, not checked)"
    )
    max_drift: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="a share of an output's largest number, above 0 and up to 1, by which batching may change it",
    )
    max_batch_cost: int | None = Field(
        None,
        ge=1,
        le=1 << 30,
        description="the most tokens, or values along pad_axis, of one batch, padding included; if omitted, it is "
        "measured",
    )
    max_wait_ms: float = Field(0.0, ge=0, le=60_000, allow_inf_nan=False, description="milliseconds from 0 to 60000")
    deadline_ms: int | None = Field(
        None, ge=1, le=604_800_000, description="a whole number of milliseconds from 1 to 604800000 (7 days)"
    )
    max_output_bytes: int = Field(
        64 << 20, ge=1024, le=1 << 30, description="bytes of an answer's JSON, from 1024 to 1073741824 (1 GiB)"
    )
    max_rows: int = Field(64, ge=1, le=4096, description="most rows of one job, a whole number from 1 to 4096")
    batch_axis: Axis = Field(None, description=AXIS_ALLOWED)
    inputs: dict[str, InputSpec] = Field({}, description="tables such as [inputs.NAME] with batch_axis or value")
    outputs: Annotated[dict[str, OutputSpec], BeforeValidator(read_outputs)] = Field(
        {}, description="names of the outputs to answer, or tables such as [outputs.NAME] with batch_axis or answer"
    )
    padding: PaddingSpec = Field(default_factory=PaddingSpec, description="a table of keys under [padding]")
    retry: RetrySpec = Field(default_factory=RetrySpec, description="a table of keys under [retry]")
    cuda: CudaSpec = Field(default_factory=CudaSpec, description="a table of keys under [cuda]")
    tensorrt: TensorrtSpec = Field(default_factory=TensorrtSpec, description="a table of keys under [tensorrt]")
    image: ImageSpec = Field(default_factory=ImageSpec, description="a table of keys under [image]")
    audio: AudioSpec = Field(default_factory=AudioSpec, description="a table of keys under [audio]")
    classification: ClassificationSpec = Field(
        default_factory=ClassificationSpec, description="a table of keys under [classification]"
    )
    embedding: EmbeddingSpec = Field(default_factory=EmbeddingSpec, description="a table of keys under [embedding]")
    text: TextSpec = Field(default_factory=TextSpec, description="a table of keys under [text]")
    tabular: TabularSpec = Field(default_factory=TabularSpec, description="a table of keys under [tabular]")
    detection: DetectionSpec = Field(default_factory=DetectionSpec, description="a table of keys under [detection]")
    segmentation: SegmentationSpec = Field(
        default_factory=SegmentationSpec, description="a table of keys under [segmentation]"
    )


def read_spec(folder: Path, version: str | None = None) -> ModelSpec:
    """Read the folder's `model.toml`, overridden by that of the version, if it has one. Raises ModelError."""
    file = folder / SPEC_FILE
    values = _read(file)
    version_file = folder / version / SPEC_FILE if version else None
    overrides = _read(version_file) if version_file and version_file.exists() else {}
    if version_file and "version" in overrides:
        raise ModelError(version_file, "version", f"is not allowed here; allowed: the key version in {file}")
    try:
        return ModelSpec.model_validate(values | overrides)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        if version_file and any(str(details["loc"][0]) in overrides for details in errors):
            file = version_file
        problems = [_problem(details) for details in errors]
        if len(problems) == 1:
            raise ModelError(file, *problems[0]) from error
        raise ModelError(file, None, "; ".join(f"{key}: {reason}" for key, reason in problems)) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        data = file.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ModelError(file, None, "is UTF-16 text; allowed: TOML in UTF-8, with or without a byte order mark")
        return tomllib.loads(data.decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise ModelError(file, None, 'is missing; allowed: a file with at least the line task = "tensor"') from error
    except OSError as error:
        raise ModelError(file, None, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(file, None, f"is not TOML in UTF-8: {error}") from error


def _problem(details: ErrorDetails) -> tuple[str, str]:
    """Return the dotted key and what is wrong with it."""
    section: type[BaseModel] = ModelSpec
    field: FieldInfo | None = None
    parts = iter(details["loc"])
    for part in parts:
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            section = field.annotation
        field = section.model_fields.get(str(part))
        if field is not None and get_origin(field.annotation) is dict and next(parts, None) is not None:
            section = get_args(field.annotation)[1]
            field = FieldInfo(annotation=section, description="a table of keys")
    key = ".".join(str(part) for part in details["loc"])
    if field is None and key == "check":
        return key, 'was replaced by batching; allowed: batching = "auto" (as check = true) or "trust" (as false)'
    if field is None:
        return key, f"unknown key; allowed: {', '.join(section.model_fields)}"
    if details["type"] == "missing":
        return key, f"missing; allowed: {field.description}"
    is_section = details["type"] == "value_error" and isinstance(details["input"], dict)
    if is_section:  # the message of a validator, about keys that contradict each other
        return key, str(details["ctx"]["error"])
    return key, f"{_shorten(details['input'])} is not allowed; allowed: {field.description}"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
