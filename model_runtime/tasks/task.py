"""What a task is: the two translations at a model's ends, bytes → arrays and arrays → JSON, for one rider.

A model's folder may bring its own: `task = "mine.py:Mine"` in `model.toml`, the class derived from `Task`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from jobs.contract.errors import Refused
from jobs.contract.json_reader import describe_value
from model_runtime.spec.model_toml import ModelSpec
from model_runtime.tensor_spec import Array, TensorSpec

KINDS: Final = frozenset({"image", "tensors", "raw"})
MAX_NAMED_PARAMETERS: Final = 10  # unknown parameters in a message


class RetryableError(Exception):
    """Raised by a task for what may pass the next time: the job waits and is tried again (`[retry]` in model.toml)."""


class Task(ABC):
    """Derive from this; `prepare` and `present` are called from several threads, so they must not change `self`.

    `kinds`      which inputs it takes: "image" an encoded picture, "tensors" a frame of `jobs.contract.tensors`,
                 "raw" the bytes of the one tensor
        `offload`    True: `prepare` takes CPU time worth a thread; False: it only maps bytes. A user's own task is
                     always called in threads
    `label_count`  how many answers have a name, None where that means nothing
    """

    kinds: frozenset[str] = frozenset()
    offload: ClassVar[bool] = True
    label_count: int | None = None

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        """Called once per load; raise ModelError where `model.toml` or another file does not fit the model."""
        self.spec = spec
        self.folder = folder
        self.inputs = inputs
        self.outputs = outputs

    @abstractmethod
    def preprocess(self, kind: str, data: bytes, parameters: dict[str, Any]) -> dict[str, Array]:
        """One rider's arrays by input name, without the batch dimension.

        What `present` needs to know beside them may be noted in `parameters`, which are this rider's own, under a name
        that begins with a dot.

        Raise Refused where the caller is at fault, TryAgain where nobody is.
        """

    @abstractmethod
    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """One rider's outputs, without the batch dimension → what the caller reads as `output`, JSON-able."""


def refuse_unknown(parameters: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Raises Refused("invalid_request") naming the parameters that do not exist and those that do."""
    unknown = [name for name in parameters if name not in allowed]
    if unknown:
        known = ", ".join(allowed) or "none"
        raise Refused(
            "invalid_request",
            f"unknown parameter: {', '.join(map(describe_value, unknown[:MAX_NAMED_PARAMETERS]))}; allowed: {known}",
            allowed=[*allowed],
        )
