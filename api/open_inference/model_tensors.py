"""Finds which tensors a model takes and gives in the Open Inference Protocol, from its card.

Tensors have the rows of a request as their first dimension. Models whose file has tensors without a batch dimension are
served with the shapes of the file, one row a request.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from jobs.contract.errors import Refused
from jobs.contract.tensors import TEXTS
from jobs.models.catalog import ModelCard

# kind of input → the name of its tensor, for tasks that take one file or text. Their output is JSON text.
FILE_KINDS: Final = ("image", "audio", "text")
ANSWER: Final = "output"  # the tensor of a JSON answer
_MAX_CACHED: Final = 256


class ServedTensor(NamedTuple):
    """A tensor as callers see it. `row_shape`: of one row. `has_rows`: its shape begins with the number of rows."""

    name: str
    datatype: str
    row_shape: tuple[int, ...]
    has_rows: bool


class ModelTensors(NamedTuple):
    """The tensors of a model version.

    `max_rows`: the most rows of a request; 0: there is no dimension of rows in some tensor, so it is one row.

    `kind`: the kind of a job's input. `gives_tensors`: the job's output has tensors; else it is JSON text.
    """

    card: ModelCard
    kind: str
    inputs: Mapping[str, ServedTensor]
    outputs: Mapping[str, ServedTensor]
    max_rows: int
    gives_tensors: bool

    def shape(self, tensor: ServedTensor) -> list[int]:
        """Return the shape of a tensor in metadata: -1 for a free dimension and for the rows."""
        if not tensor.has_rows:
            return list(tensor.row_shape)
        return [-1 if self.max_rows > 1 else 1, *tensor.row_shape]


# By the identity of a card, which the catalog replaces at each refresh.
_cached: Final[dict[int, ModelTensors]] = {}


def model_tensors_of(card: ModelCard) -> ModelTensors:
    """Return the tensors of a model version. Raises Refused if its task has none."""
    known = _cached.get(id(card))
    if known is not None and known.card is card:
        return known
    if len(_cached) >= _MAX_CACHED:
        _cached.clear()
    model_tensors = _cached[id(card)] = _build(card)
    return model_tensors


def _build(card: ModelCard) -> ModelTensors:
    kinds: Sequence[str] = card["kinds"]
    if "tensors" in kinds:
        unbatched = card.get("unbatched") or ()
        inputs, outputs = _tensors(card["inputs"], unbatched), _tensors(card.get("outputs") or (), unbatched)
        is_built_in = card.get("task") == "tensor"
        max_rows = 0 if unbatched else card.get("max_rows") or 1
        answer = {ANSWER: ServedTensor(ANSWER, TEXTS, (), has_rows=True)}
        kind = "raw" if "raw" in kinds and card.get("raw_bytes") else "tensors"
        return ModelTensors(card, kind, inputs, outputs if is_built_in else answer, max_rows, is_built_in)
    kind = next((kind for kind in FILE_KINDS if kind in kinds), "")
    if not kind:
        message = f"model {card['name']} has the task {card.get('task')}, which takes no tensors: use POST /v1/jobs"
        raise Refused("invalid_input", message)
    inputs, outputs = ({name: ServedTensor(name, TEXTS, (), has_rows=True)} for name in (kind, ANSWER))
    return ModelTensors(card, kind, inputs, outputs, 1, gives_tensors=False)


def _tensors(specs: Sequence[Mapping[str, Any]], unbatched: Sequence[str]) -> dict[str, ServedTensor]:
    return {
        spec["name"]: ServedTensor(
            spec["name"], spec["datatype"], tuple(spec["shape"]), has_rows=spec["name"] not in unbatched
        )
        for spec in specs
    }
