"""Define the keys of `model.toml` for inputs and outputs: axes, padding, constant values, outputs to answer."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_AXIS: Final = 7
AXIS_ALLOWED: Final = f'0 (the first dimension) to {MAX_AXIS}, or "none" (no batch dimension: one item a run)'


def _axis(value: Any) -> int | str:
    if value == "none" or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_AXIS):
        return value  # type: ignore[no-any-return]
    raise ValueError


Axis = Annotated[int | Literal["none"] | None, BeforeValidator(_axis)]


def _constant(value: Any) -> Any:
    """Accept a number, a boolean, a text, or nested lists of them."""
    if isinstance(value, list) and value:
        return [_constant(part) for part in value]
    if isinstance(value, bool | int | float | str):
        return value
    raise ValueError


def _pad_axis(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_AXIS:
        return value
    raise ValueError


PAD_AXIS_ALLOWED: Final = f"0 (the first dimension) to {MAX_AXIS}, but not the batch axis"
PadAxis = Annotated[int | None, BeforeValidator(_pad_axis)]


class InputSpec(BaseModel):
    """`[inputs.NAME]`: the batch axis of an input, its padding, or what it is filled with."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    batch_axis: Axis = Field(None, description=AXIS_ALLOWED)
    value: Annotated[Any, BeforeValidator(_constant)] = Field(
        None,
        description="a number, true or false, a text, or a list of them: the worker feeds it, jobs do not send it",
    )
    pad_axis: PadAxis = Field(None, description=f"{PAD_AXIS_ALLOWED}: items may differ in its size, and are padded")
    pad_value: float = Field(0, allow_inf_nan=False, description="a number that padding is filled with")
    fill: Literal["mask", "length"] | None = Field(
        None,
        description="mask (1 for content, 0 for padding), length (of each item): the worker feeds it, jobs do not",
    )


class OutputSpec(BaseModel):
    """`[outputs.NAME]`: the batch axis of an output, whether answers have it, and where padding is cut off."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    batch_axis: Axis = Field(None, description=AXIS_ALLOWED)
    answer: bool | None = Field(
        None, description="true (only such outputs are computed and answered), false (all others are)"
    )
    pad_axis: PadAxis = Field(None, description=f"{PAD_AXIS_ALLOWED}: answers are cut to the item's length along it")


class PaddingSpec(BaseModel):
    """`[padding]`: whether items of different lengths are padded to run together, and to which lengths."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    enabled: bool | None = Field(
        None,
        description="true, false (only items of one length run together); if omitted, true where it is known how",
    )
    multiple: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="a whole number from 1 to 1024: lengths are padded to a multiple of it; if omitted, 1 on a CPU and "
        "8 on a GPU, which selects kernels for each shape",
    )


class TensorKeys(NamedTuple):
    """The keys of one model. `file`: the model.toml, for messages."""

    file: str = "model.toml"
    batch_axis: int | Literal["none"] | None = None
    inputs: Mapping[str, InputSpec] = {}
    outputs: Mapping[str, OutputSpec] = {}

    def axis_of(self, name: str, table: Mapping[str, InputSpec | OutputSpec]) -> int | Literal["none"] | None:
        """Return the batch axis that is written for a tensor, or for all of them; None: nothing is written."""
        own = table[name].batch_axis if name in table else None
        return self.batch_axis if own is None else own

    def answered(self, names: Sequence[str]) -> list[str]:
        """Return which of the model's outputs are answered, in the order of `outputs` if it names them."""
        chosen = [name for name, output in self.outputs.items() if output.answer]
        return chosen or [name for name in names if name not in self.outputs or self.outputs[name].answer is None]


def read_outputs(value: Any) -> Any:
    """Turn a list of distinct names into tables with `answer = true`."""
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        if len(set(value)) == len(value):
            return {name: {"answer": True} for name in value}
    elif isinstance(value, dict):
        return value
    raise ValueError
