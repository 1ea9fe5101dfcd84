"""Runs lines in this process: a model's folder, its decode pool, its device; no service, no queue."""

import warnings
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from cli.bulk.errors import MALFORMED, BadItem, CannotRun
from cli.bulk.inputs.items import Item, from_base64
from cli.bulk.results.rows import Row, failed
from jobs.contract import tensors
from jobs.contract.errors import JitneyError, Refused
from jobs.contract.job import Outcome
from jobs.contract.json_reader import shown
from jobs.contract.lifecycle import State
from jobs.contract.tensors import Tensor
from model_runtime.cpus import usable_cpus
from model_runtime.model import Model, load
from model_runtime.repository.repository import BrokenModel, scan
from model_runtime.spec.model_toml import ModelError
from worker.offline import End, Offline, Ride
from worker.versions.hardware import of_the_environment

# What a decoder makes of a picture is told by its row; its warnings would tear the progress bar.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


def open_model(folder: Path, model: str | None) -> Model:
    """Load a model's folder, or the model of that name in a folder of models; raises CannotRun."""
    place = folder / model if model is not None and (folder / model).is_dir() else folder.resolve()
    if model is not None and place.name != model:
        raise CannotRun(f"there is no model {model} in {folder}")
    try:
        (found,) = scan(place.parent, [place.name])
        if isinstance(found, BrokenModel):
            raise CannotRun(f"--local {folder}: {found.reason}")
        return load(found, of_the_environment())
    except ModelError as error:
        raise CannotRun(f"--local {folder}: {error}") from error


class Local:
    """A loaded model, for one run."""

    def __init__(self, model: Model, parameters: Mapping[str, Any]) -> None:
        kinds = model.card()["kinds"]
        self._model, self._parameters = model, orjson.dumps(parameters)
        self._kind = next((kind for kind in ("image", "raw") if kind in kinds), "tensors")

    async def run(self, items: Iterator[Item]) -> AsyncIterator[list[Row]]:
        """Give the rows of all lines, in order; raises CannotRun."""
        riding: deque[Item] = deque()

        def rides() -> Iterator[Ride]:
            for item in items:
                riding.append(item)
                yield self._ride(item)

        async for ends in Offline(self._model, usable_cpus()).run(rides()):
            yield [_row(riding.popleft(), end) for end in ends]

    def _ride(self, item: Item) -> Ride:
        if item.job is None:
            return Ride(self._kind, item.read, self._parameters)
        given, parameters = item.job["input"], item.job.get("parameters")
        own = self._parameters if parameters is None else orjson.dumps(parameters)
        if isinstance(given.get("tensors"), dict):
            return Ride("tensors", lambda: _frame(given["tensors"]), own)
        return Ride("image", lambda: _image(given), own)


def _image(given: Mapping[str, Any]) -> bytes:
    if isinstance(image := given.get("image"), str):
        return from_base64(image)
    names = ", ".join(shown(name) for name in sorted(given)[:5])
    raise BadItem(MALFORMED, f"a job's input has an image in base64, or tensors; this one has {names}")


def _frame(given: Mapping[str, Any]) -> bytes:
    """Pack a job's tensors as the gateway does; the task checks them against the model. Raises BadItem."""
    try:
        return tensors.pack({name: _tensor(name, one) for name, one in given.items()})
    except Refused as error:
        raise BadItem(MALFORMED if error.code == "invalid_request" else error.code, error.message) from error


def _tensor(name: str, one: Any) -> Tensor:
    datatype, shape = tensors.read_head(name, one)
    return tensors.read_values(name, datatype, shape, one)


def _row(item: Item, end: End) -> Row:
    if isinstance(end, Outcome):
        if end.state == State.SUCCEEDED:
            return Row(item, end.state.value, end.body, None, end.batch_size)
        error = orjson.loads(end.body)
        return failed(item, error["code"], error["message"], end.state.value)._replace(batch_size=end.batch_size)
    if isinstance(end, BadItem | JitneyError):
        return failed(item, end.code, end.message)
    return failed(item, "internal_error", f"{type(end).__name__}: {end}")
