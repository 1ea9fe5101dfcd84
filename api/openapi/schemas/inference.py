"""Schemas of the Open Inference Protocol v2: tensors, metadata, configuration, statistics, repository, errors."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from api.openapi.schemas.bodies import RequestBody, ResponseBody

_Size = Annotated[int, Field(ge=-1)]


class InferenceError(ResponseBody):
    """An error of the protocol. The HTTP status says what kind it is."""

    error: str
    """For people: what was wrong, and what is allowed."""

    example: ClassVar[dict[str, Any]] = {"error": "model tiny takes the inputs ['x'], and got 'y'"}


class _OpenRequestBody(RequestBody):
    """Clients may send more fields, which are ignored."""

    model_config = ConfigDict(extra="allow")


class InferenceInput(_OpenRequestBody):
    """An input tensor, with `data`, or with the parameter `binary_data_size` and its bytes behind the JSON."""

    name: str
    datatype: str
    shape: list[Annotated[int, Field(ge=0)]]
    """With the number of rows first, if the model's metadata has it."""
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None
    """The values, flat or nested. Null is NaN."""


class InferenceRequestedOutput(_OpenRequestBody):
    """An output that is asked for. Parameters: `binary_data`, `classification`."""

    name: str
    parameters: dict[str, Any] | None = None


class InferenceRequest(_OpenRequestBody):
    """Tensors for a model. Parameters: `timeout` in µs, `priority`, `binary_data_output`."""

    id: str | None = None
    """Comes back in the answer."""
    parameters: dict[str, Any] | None = None
    inputs: list[InferenceInput]
    outputs: list[InferenceRequestedOutput] | None = None
    """If absent: all."""

    example: ClassVar[dict[str, Any]] = {
        "id": "1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0.5, 1, 2]}],
    }


class InferenceOutput(ResponseBody):
    """An output tensor, with `data`, or with `binary_data_size` and its bytes behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None
    """The values, flat and row-major. NaN and infinity are null."""


class InferenceResponse(ResponseBody):
    """The tensors that a model gave."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferenceOutput]

    example: ClassVar[dict[str, Any]] = {
        "model_name": "double",
        "model_version": "1",
        "id": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 2, 4]}],
    }


class ServerMetadata(ResponseBody):
    """The server and the extensions of the protocol that it has."""

    name: str
    version: str
    extensions: list[str]

    example: ClassVar[dict[str, Any]] = {"name": "jitney", "version": "0.1.0", "extensions": ["binary_tensor_data"]}


class ServerLive(ResponseBody):
    """The server runs."""

    live: Literal[True]

    example: ClassVar[dict[str, Any]] = {"live": True}


class ServerReady(ResponseBody):
    """Whether the server accepts requests."""

    ready: bool

    example: ClassVar[dict[str, Any]] = {"ready": True}


class ServedModelReady(ServerReady):
    """Whether a live worker serves a model."""

    name: str

    example: ClassVar[dict[str, Any]] = {"name": "double", "ready": True}


class TensorMetadata(ResponseBody):
    """An input or output. -1 is any size; a first dimension of -1 is that of the rows."""

    name: str
    datatype: str
    shape: list[_Size]


class ModelMetadata(ResponseBody):
    """The tensors of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]

    example: ClassVar[dict[str, Any]] = {
        "name": "double",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
    }


class TensorConfig(ResponseBody):
    """An input or output in Triton's ModelConfig. `dims`: without the dimension of rows."""

    name: str
    data_type: str
    dims: list[_Size]


class ModelConfig(ResponseBody):
    """Triton's ModelConfig. `max_batch_size` 0: the tensors have no dimension of rows."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]
    dynamic_batching: dict[str, Any] | None = None

    example: ClassVar[dict[str, Any]] = {
        "name": "double",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 64,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [4]}],
        "dynamic_batching": {},
    }


class StatisticDuration(ResponseBody):
    """A count and the time of all in ns."""

    count: int
    ns: int


class InferenceStatistics(ResponseBody):
    """Times by stage. `queue`: from accept until the batch begins."""

    success: StatisticDuration
    fail: StatisticDuration
    queue: StatisticDuration
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration
    cache_hit: StatisticDuration
    cache_miss: StatisticDuration


class VersionStatistics(ResponseBody):
    """The counts and times of a version."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    """Rows."""
    execution_count: int
    """Batches."""
    inference_stats: InferenceStatistics
    batch_stats: list[Any]
    memory_usage: list[Any]


class ModelStatistics(ResponseBody):
    """The statistics of versions."""

    model_stats: list[VersionStatistics]

    example: ClassVar[dict[str, Any]] = {"model_stats": []}


class RepositoryIndexRequest(_OpenRequestBody):
    """`ready`: list only versions that are ready."""

    ready: bool | None = None

    example: ClassVar[dict[str, Any]] = {"ready": True}


class RepositoryModel(ResponseBody):
    """A version and its state."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


RepositoryIndex = Annotated[
    list[RepositoryModel],
    Field(examples=[[{"name": "double", "version": "1", "state": "READY", "reason": ""}]]),
]


class RepositoryRequest(_OpenRequestBody):
    """A request to load or unload a model. Parameters are not supported, but `unload_dependents`."""

    parameters: dict[str, Any] | None = None

    example: ClassVar[dict[str, Any]] = {}


class Done(ResponseBody):
    """An empty object."""

    example: ClassVar[dict[str, Any]] = {}
