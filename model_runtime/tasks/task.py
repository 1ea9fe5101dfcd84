"""Define the base class of tasks: preprocess one item's bytes to arrays, and postprocess its outputs to JSON.

A model's folder may contain a custom task: `task = "file.py:ClassName"` in `model.toml`, a class derived from Task.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from batching.padding import Padding
from jobs.contract.errors import Refused
from jobs.contract.json_reader import describe_value
from model_runtime.spec.model_toml import ModelSpec
from model_runtime.tasks.answers import read_choice
from model_runtime.tensor_spec import Array, TensorSpec

PreparedRow = tuple[dict[str, Array], dict[str, Any]]
KINDS: Final = frozenset({"image", "audio", "tensors", "raw", "json", "bytes", "text"})
MAX_NAMED_PARAMETERS: Final = 10  # of unknown parameters, in a message


class RetryableError(Exception):
    """A task raises this for a transient failure: the job is retried later (`[retry]` in model.toml)."""


class Task(ABC):
    """Base class of tasks. `preprocess` and `postprocess` are called from several threads and must not change `self`.

    `kinds`        accepted inputs: "image" (an encoded image), "audio" (an encoded audio file), "tensors" (a frame of
                   `jobs.contract.tensors`),
                   "raw" (the bytes of the model's only input, which must have a fixed shape), "text" (its UTF-8 bytes),
                   "json" (the JSON of a job's `input`), "bytes" (any bytes)
    `input_fields`  for the kind "json": the fields of `input` that are accepted. "json": any value, and the bytes are
                   the JSON of that value; for others they are the JSON of the object with the field
    `offload`      True: `preprocess` uses enough CPU time to run in a thread; False: it only maps bytes. Custom tasks
                   always run in threads
    `inline_bytes`  inputs of together at most this size are preprocessed on the event loop, although `offload` is True
    `takes_rows`   True: an input may have several rows, which `preprocess_rows` splits
    `stacks_rows`  True: `preprocess_stacked` returns the inputs of all rows, stacked along a new first dimension, and
                   `postprocess` is called once for all rows, whose outputs are stacked in the same way; False: once for
                   each row, and the job's output is {"rows": [...]}
    `returns_arrays`  True: `postprocess` passes the model's arrays on, so that its output is as large as they are
    `encodes_padded`  True: `encode_batch` takes outputs that are not cut to the items' lengths
    `is_slow`      True: `postprocess` takes long whatever the size of the outputs, so it runs in a thread
    `from_file`    what `model.toml` leaves out and the model's file says, a line for each, for people
    `label_count`  the number of labels; None if it does not apply
    `row_shapes`   the shapes that `preprocess` makes, by input name, where all items have the same: the model is
                   measured and warmed up with them, if its own dimensions are free
    `row_group`    the group of all items, if built-in code makes them all alike (batching/collation.py)
    `padding`      how a built-in task's items of different lengths are padded; None: as `model.toml` says
    """

    kinds: frozenset[str] = frozenset()
    input_fields: Sequence[str] = ("json",)
    offload: ClassVar[bool] = True
    inline_bytes: ClassVar[int] = 0
    takes_rows: ClassVar[bool] = False
    stacks_rows: ClassVar[bool] = False
    returns_arrays: ClassVar[bool] = False
    encodes_padded: ClassVar[bool] = False
    is_slow: ClassVar[bool] = False
    from_file: Sequence[str] = ()
    label_count: int | None = None
    row_shapes: Mapping[str, tuple[int, ...]] = {}
    row_group: Hashable = None
    padding: Padding | None = None

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        """Called once per load. Raise ModelError if `model.toml` or another file does not match the model."""
        self.spec = spec
        self.folder = folder
        self.inputs = inputs
        self.outputs = outputs

    @abstractmethod
    def preprocess(self, kind: str, data: bytes, parameters: dict[str, Any]) -> dict[str, Array]:
        """Return one item's arrays by input name, without the batch dimension.

        To pass values to `postprocess`, add them to `parameters`, which belong to this item, under names that begin
        with a dot.

        Raise Refused for invalid input, RetryableError for a transient failure.
        """

    def preprocess_rows(self, kind: str, data: bytes, parameters: dict[str, Any], rows: int) -> list[PreparedRow]:
        """Return the arrays of each row of an input, as `preprocess` returns those of an item, and its parameters.

        Raise Refused for an invalid input; its detail `row` is the index of the row that is invalid.
        """
        raise NotImplementedError  # only for tasks that take rows

    def preprocess_stacked(self, kind: str, data: bytes, parameters: dict[str, Any], rows: int) -> dict[str, Array]:
        """Return the arrays of all rows of an input, with the rows as their first dimension. Raise Refused."""
        raise NotImplementedError  # only for tasks that stack rows

    def make_rows(self, count: int) -> Sequence[dict[str, Array]]:  # noqa: ARG002 (for built-in tasks)
        """Return up to `count` rows of one shape with which a model can be checked that has no examples.

        Empty: random numbers suit the model.
        """
        return ()

    def make_rows_of(self, lengths: Sequence[int]) -> Sequence[dict[str, Array]]:  # noqa: ARG002 (for built-in tasks)
        """Return a row of each of these lengths, or in their proportion. Empty: random numbers suit the model."""
        return ()

    @abstractmethod
    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Convert one item's outputs, without the batch dimension, to JSON-able data: the job's `output`.

        It may have numpy arrays; they become lists.
        """

    def encode_batch(
        self,
        outputs: Mapping[str, Array],  # noqa: ARG002 (for built-in tasks)
        parameters: Sequence[Mapping[str, Any]],  # noqa: ARG002
    ) -> list[bytes] | None:
        """Return the JSON of each row of a batch, the same as from `postprocess` with the row's parameters.

        None: rows are encoded one by one. With `encodes_padded` the outputs may have padding.
        """
        return None


def refuse_unknown(parameters: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Raise Refused("invalid_request") if there is a parameter that is not in `allowed`."""
    unknown = [name for name in parameters if name not in allowed]
    if unknown:
        known = ", ".join(allowed) or "none"
        raise Refused(
            "invalid_request",
            f"unknown parameter: {', '.join(map(describe_value, unknown[:MAX_NAMED_PARAMETERS]))}; allowed: {known}",
            allowed=[*allowed],
        )


def read_encoding(parameters: Mapping[str, Any], allowed: Sequence[str]) -> str:
    """Return the parameter `encoding`, the only one of a task; the first one is the default. Raises Refused."""
    if not parameters:
        return allowed[0]
    refuse_unknown(parameters, ("encoding",))
    return read_choice(parameters, "encoding", allowed)
