"""What an operator may write in `model.toml`, and the one-line error that says what was wrong and what is allowed.

A version may have a `model.toml` of its own, for what differs there: see docs/decisions/0032.

Decides nothing about the ONNX file beside it: whether the two fit is the task's question.
"""

import codecs
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from model_runtime.spec.gpu import CudaSpec, TensorrtSpec
from model_runtime.spec.image import ImageSpec
from model_runtime.spec.tasks import DetectionSpec, EmbeddingSpec

__all__ = ["ClassificationSpec", "ImageSpec", "ModelError", "ModelSpec", "RetrySpec", "read_spec"]

SPEC_FILE: Final = "model.toml"


class ModelError(Exception):
    """A model can not be served as it lies on disk. One line for the operator: file, key, what is wrong and allowed."""

    def __init__(self, file: Path | str, key: str | None, reason: str) -> None:
        self.file = str(file)
        self.key = key
        self.reason = " ".join(reason.split())
        super().__init__(": ".join(part for part in (self.file, key, self.reason) if part))


class ClassificationSpec(BaseModel):
    """`[classification]`: from scores to named answers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    labels: str | None = Field(
        None, pattern=r"^[^/\\.][^/\\]*$", description="the name of a text file in the model's folder, a label a line"
    )
    softmax: bool = Field(True, description="true (the model gives scores), false (it gives probabilities)")
    top_k: int = Field(5, ge=1, le=100_000, description="a whole number from 1 to the number of classes")


class RetrySpec(BaseModel):
    """`[retry]`: what happens to a job whose failure may pass: no memory for it, or a task that says so."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    attempts: int = Field(3, ge=1, le=100, description="a whole number from 1 (no retry) to 100")
    backoff_ms: int = Field(1000, ge=0, le=3_600_000, description="milliseconds from 0 to 3600000, doubled each time")


def _ascending(value: Any) -> tuple[int, ...]:
    whole = isinstance(value, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    if not whole or not value or value != sorted(set(value)) or not 1 <= value[0] <= value[-1] <= 4096:
        raise ValueError
    return tuple(value)


class ModelSpec(BaseModel):
    """`model.toml`. Times end in their unit; every key has a default except `task`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: str = Field(
        pattern=r"^(image-classification|image-embedding|object-detection|tensor|[A-Za-z0-9_][A-Za-z0-9_.-]*\.py:[A-Za-z_][A-Za-z0-9_]*)$",
        description="image-classification, image-embedding, object-detection, tensor, "
        "or file.py:ClassName of a file in the model's folder",
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
        None, ge=1, le=4096, description="a whole number from 1 to 4096; left out, it is found by measuring"
    )
    buckets: Annotated[tuple[int, ...], BeforeValidator(_ascending)] | None = Field(
        None,
        description="whole numbers from 1 to 4096, ascending: sizes that batches are padded to, such as [1, 4, 16]",
    )
    check: bool = Field(True, description="true (try before serving that riders do not mix), false (trust the model)")
    max_wait_ms: float = Field(0.0, ge=0, le=60_000, allow_inf_nan=False, description="milliseconds from 0 to 60000")
    deadline_ms: int | None = Field(
        None, ge=1, le=604_800_000, description="a whole number of milliseconds from 1 to 604800000 (7 days)"
    )
    retry: RetrySpec = Field(default_factory=RetrySpec, description="a table of keys under [retry]")
    cuda: CudaSpec = Field(default_factory=CudaSpec, description="a table of keys under [cuda]")
    tensorrt: TensorrtSpec = Field(default_factory=TensorrtSpec, description="a table of keys under [tensorrt]")
    image: ImageSpec = Field(default_factory=ImageSpec, description="a table of keys under [image]")
    classification: ClassificationSpec = Field(
        default_factory=ClassificationSpec, description="a table of keys under [classification]"
    )
    embedding: EmbeddingSpec = Field(default_factory=EmbeddingSpec, description="a table of keys under [embedding]")
    detection: DetectionSpec = Field(default_factory=DetectionSpec, description="a table of keys under [detection]")


def read_spec(folder: Path, version: str | None = None) -> ModelSpec:
    """The folder's `model.toml`, with what the version's own says instead; raises ModelError."""
    file = folder / SPEC_FILE
    written = _read(file)
    own_file = folder / version / SPEC_FILE if version else None
    own = _read(own_file) if own_file and own_file.exists() else {}
    if own_file and "version" in own:
        raise ModelError(own_file, "version", f"which version is served is said in {file} alone")
    try:
        return ModelSpec.model_validate(written | own)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        if own_file and any(str(details["loc"][0]) in own for details in errors):
            file = own_file
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
        reason = 'is missing: it says what the model is for; the least it takes is one line: task = "tensor"'
        raise ModelError(file, None, reason) from error
    except OSError as error:
        raise ModelError(file, None, f"can not be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(file, None, f"is not TOML in UTF-8: {error}") from error


def _problem(details: ErrorDetails) -> tuple[str, str]:
    """The key as an operator writes it, and what is wrong with it."""
    section: type[BaseModel] = ModelSpec
    field: FieldInfo | None = None
    for part in details["loc"]:
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            section = field.annotation
        field = section.model_fields.get(str(part))
    key = ".".join(str(part) for part in details["loc"])
    if field is None:
        return key, f"unknown key; allowed: {', '.join(section.model_fields)}"
    if details["type"] == "missing":
        return key, f"missing; allowed: {field.description}"
    whole_section = details["type"] == "value_error" and isinstance(details["input"], dict)
    if whole_section:  # our own sentence, about keys that do not go together
        return key, str(details["ctx"]["error"])
    return key, f"{_shown(details['input'])} is not allowed; allowed: {field.description}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
