"""Runs the lines of a bulk run in this process, without a service or Redis."""

import warnings
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import orjson

from cli.bulk.errors import MALFORMED, BadItem, CannotRun
from cli.bulk.inputs.items import Item, decode_base64
from cli.bulk.results.rows import ResultRow, failed_row
from jobs.contract import tensors
from jobs.contract.errors import JitneyError, Refused
from jobs.contract.input_fields import (
    JSON_INPUT_FIELDS,
    check_no_rows,
    encode_input,
    encode_text,
    is_input,
    read_row_count,
)
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

# The row of an image reports decoding errors; warnings of Pillow would break the progress bar.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


def open_model(folder: Path, model: str | None) -> Model:
    """Load a model folder, or the named model from a folder of models. Raises CannotRun."""
    place = folder / model if model is not None and (folder / model).is_dir() else folder.resolve()
    if model is not None and place.name != model:
        raise CannotRun(f"no model {model} in {folder}")
    try:
        (listed,) = list_models(place.parent, [place.name])
        if isinstance(listed, BrokenModel):
            raise CannotRun(f"--local {folder}: {listed.reason}")
        return load_model(listed, hardware_from_environment())
    except ModelError as error:
        raise CannotRun(f"--local {folder}: {error}") from error


class LocalRunner:
    """Runs lines with a loaded model."""

    def __init__(self, model: Model, parameters: Mapping[str, Any]) -> None:
        card = model.card()
        kinds, self._max_rows = card["kinds"], card["max_rows"]
        self._model, self._parameters = model, orjson.dumps(parameters)
        self._kind = next((kind for kind in ("image", "audio", "raw", "bytes") if kind in kinds), "tensors")

    async def run(self, items: Iterator[Item]) -> AsyncIterator[list[ResultRow]]:
        """Yield the rows of all lines in order. Raises CannotRun."""
        running: deque[Item] = deque()

        def offline_inputs() -> Iterator[OfflineInput]:
            for item in items:
                running.append(item)
                yield self._offline_input(item)

        async for results in Offline(self._model, usable_cpus()).run(offline_inputs()):
            yield [_result_row(running.popleft(), result) for result in results]

    def _offline_input(self, item: Item) -> OfflineInput:
        if item.job is None:
            return OfflineInput(self._kind, item.read, self._parameters)
        job_input, parameters = item.job["input"], item.job.get("parameters")
        encoded = self._parameters if parameters is None else orjson.dumps(parameters)
        rows = item.job.get("rows")
        if rows is not None and not (type(rows) is int and 1 <= rows <= (self._max_rows or 0)):
            return OfflineInput(self._kind, partial(_refuse_rows, self._max_rows), encoded)
        name = next(iter(job_input)) if is_input(job_input) else ""
        if name in JSON_INPUT_FIELDS:
            return self._json_input(job_input, rows, encoded)
        if name == "text":
            return OfflineInput("text", lambda: _encode_text(job_input["text"], rows), encoded)
        if name == "tensors" and isinstance(job_input["tensors"], dict):
            return OfflineInput("tensors", lambda: _pack_tensors(job_input["tensors"]), encoded, rows or 0)
        kind = {"bytes": self._kind, "audio": "audio"}.get(name, "image")
        return OfflineInput(kind, lambda: _decode(job_input), encoded, rows or 0)

    def _json_input(self, job_input: Mapping[str, Any], rows: int | None, parameters: bytes) -> OfflineInput:
        """Return an input that stays JSON, checked as the gateway checks it."""
        try:
            count = read_row_count(job_input, rows) or 0
            if count > (self._max_rows or 0):
                return OfflineInput("json", partial(_refuse_rows, self._max_rows), parameters)
            data = encode_input(job_input)
        except Refused as error:
            return OfflineInput("json", partial(_raise_bad_item, error), parameters)
        return OfflineInput("json", lambda: data, parameters, count)


def _refuse_rows(limit: int | None) -> bytes:
    allowed = f"a whole number from 1 to {limit}" if limit else "left out: the task of this model takes no rows"
    raise BadItem("invalid_request", f"rows must be {allowed}")


def _raise_bad_item(error: Refused) -> NoReturn:
    raise BadItem(MALFORMED if error.code == "invalid_request" else error.code, error.message) from error


def _encode_text(text: Any, rows: int | None) -> bytes:
    try:
        check_no_rows(rows, "text")
        return encode_text(text, 'field "input.text"')
    except Refused as error:
        _raise_bad_item(error)


def _decode(job_input: Mapping[str, Any]) -> bytes:
    """Return the bytes of an image, of audio, or of the field `bytes`. Raises BadItem."""
    encoded = next((job_input[name] for name in ("image", "audio", "bytes") if name in job_input), None)
    if isinstance(encoded, str):
        return decode_base64(encoded)
    names = ", ".join(describe_value(name) for name in sorted(job_input)[:5])
    raise BadItem(
        MALFORMED, f"the input of a job must have an image or audio in base64, or tensors; this one has {names}"
    )


def _pack_tensors(values: Mapping[str, Any]) -> bytes:
    """Pack JSON tensors as the gateway does; the task checks them against the model. Raises BadItem."""
    try:
        return tensors.pack_tensors({name: _read_tensor(name, value) for name, value in values.items()})
    except Refused as error:
        _raise_bad_item(error)


def _read_tensor(name: str, value: Any) -> Tensor:
    datatype, shape = tensors.read_tensor_header(name, value)
    return tensors.read_tensor_values(name, datatype, shape, value)


def _result_row(item: Item, result: OfflineResult) -> ResultRow:
    if isinstance(result, Outcome):
        state, batch_size = result.state, result.batch_size
        if state == State.SUCCEEDED:
            return ResultRow(item, state.value, result.body, None, batch_size)
        error = orjson.loads(result.body)
        return failed_row(item, error["code"], error["message"], state.value)._replace(batch_size=batch_size)
    if isinstance(result, BadItem | JitneyError):
        return failed_row(item, result.code, result.message)
    return failed_row(item, "internal_error", f"{type(result).__name__}: {result}")
