"""Runs lines in this process: a model's folder, its decode pool, its device; no service, no queue."""

import warnings
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from cli.bulk.errors import MALFORMED, BadItem, CannotRun
from cli.bulk.inputs.items import Item, decode_base64
from cli.bulk.results.rows import ResultRow, failed_row
from jobs.contract import tensors
from jobs.contract.errors import JitneyError, Refused
from jobs.contract.job import Outcome
from jobs.contract.json_reader import describe_value
from jobs.contract.lifecycle import State
from jobs.contract.tensors import Tensor
from model_runtime.cpus import usable_cpus
from model_runtime.model import Model, load_model
from model_runtime.repository.repository import BrokenModel, list_models
from model_runtime.spec.model_toml import ModelError
from worker.offline import Offline, OfflineInput, OfflineResult
from worker.versions.hardware import hardware_from_environment

# What a decoder makes of a picture is told by its row; its warnings would tear the progress bar.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


def open_model(folder: Path, model: str | None) -> Model:
    """Load a model's folder, or the model of that name in a folder of models; raises CannotRun."""
    place = folder / model if model is not None and (folder / model).is_dir() else folder.resolve()
    if model is not None and place.name != model:
        raise CannotRun(f"there is no model {model} in {folder}")
    try:
        (found,) = list_models(place.parent, [place.name])
        if isinstance(found, BrokenModel):
            raise CannotRun(f"--local {folder}: {found.reason}")
        return load_model(found, hardware_from_environment())
    except ModelError as error:
        raise CannotRun(f"--local {folder}: {error}") from error


class LocalRunner:
    """A loaded model, for one run."""

    def __init__(self, model: Model, parameters: Mapping[str, Any]) -> None:
        kinds = model.card()["kinds"]
        self._model, self._parameters = model, orjson.dumps(parameters)
        self._kind = next((kind for kind in ("image", "raw") if kind in kinds), "tensors")

    async def run(self, items: Iterator[Item]) -> AsyncIterator[list[ResultRow]]:
        """Give the rows of all lines, in order; raises CannotRun."""
        riding: deque[Item] = deque()

        def offline_inputs() -> Iterator[OfflineInput]:
            for item in items:
                riding.append(item)
                yield self._ride(item)

        async for ends in Offline(self._model, usable_cpus()).run(offline_inputs()):
            yield [_result_row(riding.popleft(), end) for end in ends]

    def _ride(self, item: Item) -> OfflineInput:
        if item.job is None:
            return OfflineInput(self._kind, item.read, self._parameters)
        given, parameters = item.job["input"], item.job.get("parameters")
        own = self._parameters if parameters is None else orjson.dumps(parameters)
        if isinstance(given.get("tensors"), dict):
            return OfflineInput("tensors", lambda: _pack_tensors(given["tensors"]), own)
        return OfflineInput("image", lambda: _image(given), own)


def _image(given: Mapping[str, Any]) -> bytes:
    if isinstance(image := given.get("image"), str):
        return decode_base64(image)
    names = ", ".join(describe_value(name) for name in sorted(given)[:5])
    raise BadItem(MALFORMED, f"a job's input has an image in base64, or tensors; this one has {names}")


def _pack_tensors(given: Mapping[str, Any]) -> bytes:
    """Pack a job's tensors as the gateway does; the task checks them against the model. Raises BadItem."""
    try:
        return tensors.pack_tensors({name: _tensor(name, one) for name, one in given.items()})
    except Refused as error:
        raise BadItem(MALFORMED if error.code == "invalid_request" else error.code, error.message) from error


def _tensor(name: str, one: Any) -> Tensor:
    datatype, shape = tensors.read_tensor_header(name, one)
    return tensors.read_tensor_values(name, datatype, shape, one)


def _result_row(item: Item, end: OfflineResult) -> ResultRow:
    if isinstance(end, Outcome):
        if end.state == State.SUCCEEDED:
            return ResultRow(item, end.state.value, end.body, None, end.batch_size)
        error = orjson.loads(end.body)
        return failed_row(item, error["code"], error["message"], end.state.value)._replace(batch_size=end.batch_size)
    if isinstance(end, BadItem | JitneyError):
        return failed_row(item, end.code, end.message)
    return failed_row(item, "internal_error", f"{type(end).__name__}: {end}")
