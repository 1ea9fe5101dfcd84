"""Describes the server and its models as the Open Inference Protocol has it, as dicts that HTTP and gRPC share."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from api.gateway.gateway import Gateway
from api.open_inference.model_tensors import ModelTensors, ServedTensor, model_tensors_of
from jobs.contract.errors import Refused, RetryLater, StoreUnavailable
from jobs.contract.tensors import TEXTS
from jobs.metrics import histograms
from jobs.models import version_routing
from jobs.models.worker_registry import version_number

SERVER_NAME: Final = "jitney"
# Of Triton, and `async_jobs`: POST …/jobs takes the body of …/infer and answers 202 with a job.
EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "statistics",
    "async_jobs",
)
_ONNX: Final = "onnxruntime_onnx"  # Triton's name of the platform
_NS_PER_US: Final = 1000


@lru_cache
def _server_version() -> str:
    try:
        return version("jitney")
    except PackageNotFoundError:
        return "unknown"


def server_metadata() -> dict[str, Any]:
    """Return name, version and extensions of the server."""
    return {"name": SERVER_NAME, "version": _server_version(), "extensions": list(EXTENSIONS)}


async def is_server_ready(gateway: Gateway) -> bool:
    """Return whether the gateway accepts jobs and Redis answers."""
    try:
        await gateway.refresh_models()
    except StoreUnavailable:
        return False
    return not gateway.is_draining and not gateway.store.connection.refusal and gateway.catalog.is_loaded


def is_model_ready(gateway: Gateway, name: str, number: str = "") -> bool:
    """Return whether a live worker takes new jobs of a model, or of one version. Raises Refused if it is unknown."""
    cluster, plan = gateway.catalog.cluster, gateway.catalog.plan(name)
    if name not in cluster.names():
        raise Refused("model_not_found", f"no model {name[:80]!r}", allowed=cluster.names())
    if number and number not in cluster.versions(name):
        message = f"no live worker has version {number[:20]} of model {name}"
        raise Refused("version_not_found", message, allowed=cluster.versions(name))
    if gateway.is_draining:
        return False
    if number:
        return not plan.unloaded and number in version_routing.list_running_versions(cluster, name)
    return bool(version_routing.compute_shares(cluster, plan, name))


def model_metadata(gateway: Gateway, name: str, number: str = "") -> dict[str, Any]:
    """Return the versions, inputs and outputs of a model. Raises JitneyError."""
    model_tensors = _find(gateway, name, number)
    card = model_tensors.card
    return {
        "name": card["name"],
        "versions": [number] if number else _running(gateway, card["name"]) or [card["version"]],
        "platform": _platform(model_tensors),
        "inputs": [_metadata_of(model_tensors, tensor) for tensor in model_tensors.inputs.values()],
        "outputs": [_metadata_of(model_tensors, tensor) for tensor in model_tensors.outputs.values()],
    }


def model_config(gateway: Gateway, name: str, number: str = "") -> dict[str, Any]:
    """Return Triton's ModelConfig of a model. Raises JitneyError."""
    model_tensors = _find(gateway, name, number)
    return {
        "name": model_tensors.card["name"],
        "platform": _platform(model_tensors),
        "backend": _platform(model_tensors).partition("_")[0],
        "max_batch_size": model_tensors.max_rows,
        "input": [_config_of(model_tensors, tensor) for tensor in model_tensors.inputs.values()],
        "output": [_config_of(model_tensors, tensor) for tensor in model_tensors.outputs.values()],
        **({"dynamic_batching": {}} if model_tensors.card.get("batchable") else {}),
    }


async def model_statistics(gateway: Gateway, name: str = "", number: str = "") -> dict[str, Any]:
    """Return the statistics of a model, or of all. Raises Refused if it is unknown, StoreUnavailable.

    Times are known for a model: a version has their means. `batch_stats` is empty, as sizes are kept in buckets: see
    /metrics.
    """
    cluster = gateway.catalog.cluster
    if name:
        is_model_ready(gateway, name, number)  # raises
    names = [name] if name else cluster.names()
    counts = await gateway.store.counts()
    stages = await histograms.read_histograms(gateway.store.connection, names)
    return {
        "model_stats": [
            _statistics(each, number_of, counts, stages[each])
            for each in names
            for number_of in ([number] if number else cluster.versions(each))
        ]
    }


def repository_index(gateway: Gateway, *, only_ready: bool = False) -> list[dict[str, Any]]:
    """Return all versions of all models with their state."""
    cluster = gateway.catalog.cluster
    found = []
    for name in cluster.names():
        running = set(_running(gateway, name))
        for number in cluster.versions(name):
            if only_ready and number not in running:
                continue
            loading = cluster.loading(name, number)
            state = "READY" if number in running else "LOADING" if loading else "UNAVAILABLE"
            reason = "" if number in running or loading else cluster.failure(name, number) or "unloaded"
            found.append({"name": name, "version": number, "state": state, "reason": reason})
    return found


def _find(gateway: Gateway, name: str, number: str) -> ModelTensors:
    if not name:
        raise Refused("model_not_found", "the request names no model", allowed=gateway.catalog.names())
    try:
        return model_tensors_of(gateway.catalog.find(name, number))
    except StoreUnavailable:
        raise
    except RetryLater as error:  # no version takes jobs, but its tensors may be known
        cards = [card for card in gateway.catalog.cluster.cards if card["name"] == name]
        if number or not cards:
            raise error from None
        return model_tensors_of(max(cards, key=lambda card: version_number(card["version"])))


def _running(gateway: Gateway, name: str) -> list[str]:
    if gateway.catalog.plan(name).unloaded:
        return []
    return version_routing.list_running_versions(gateway.catalog.cluster, name)


def _platform(model_tensors: ModelTensors) -> str:
    is_custom = str(model_tensors.card.get("provider_note") or "").startswith("custom engine")
    return "custom" if is_custom else _ONNX


def _metadata_of(model_tensors: ModelTensors, tensor: ServedTensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": model_tensors.shape(tensor)}


def _config_of(model_tensors: ModelTensors, tensor: ServedTensor) -> dict[str, Any]:
    """Return an entry of the config, whose dimensions are without that of the rows if there is a max_batch_size."""
    datatype = "STRING" if tensor.datatype == TEXTS else tensor.datatype
    dims: Sequence[int] = tensor.row_shape if model_tensors.max_rows else model_tensors.shape(tensor)
    return {"name": tensor.name, "data_type": f"TYPE_{datatype}", "dims": list(dims)}


def _statistics(name: str, number: str, counts: Mapping[str, int], stages: Mapping[str, int]) -> dict[str, Any]:
    """Return the statistics of a version from the counts of jobs, and the histograms of its model."""
    prefix = f"outcomes:{name}:"
    ended = {key: count for key, count in counts.items() if key.startswith(prefix)}
    of_version = {key.rpartition(":")[2]: n for key, n in ended.items() if key.startswith(f"{prefix}{number}:")}
    part = sum(of_version.values()) / (sum(ended.values()) or 1)

    def mean_us(*what: str) -> float:
        """Return the mean of the times of stages, each over what it is counted by: jobs, or batches."""
        return sum(stages.get(f"{each}:sum", 0) / (_count(stages, each) or 1) for each in what)

    succeeded = of_version.get("succeeded", 0)

    def duration(*what: str) -> dict[str, int]:
        return {"count": succeeded, "ns": round(succeeded * mean_us(*what)) * _NS_PER_US}

    nothing = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": number,
        "last_inference": 0,
        "inference_count": round(part * stages.get("size:sum", 0)),
        "execution_count": round(part * _count(stages, "size")),
        "inference_stats": {
            "success": duration("total"),
            "fail": {"count": sum(of_version.values()) - succeeded, "ns": 0},
            "queue": duration("queue", "batch"),
            "compute_input": duration("decode"),
            "compute_infer": duration("infer"),
            "compute_output": {"count": succeeded, "ns": 0},
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [],
        "memory_usage": [],
    }


def _count(stages: Mapping[str, int], what: str) -> int:
    """Return the number of observations of a histogram."""
    return sum(stages.get(f"{what}:{bound}", 0) for bound in (*histograms.BOUNDS[what], "inf"))
