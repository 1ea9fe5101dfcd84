"""Whether a model's runs are so short that handing them to another thread costs more than they take. Owns no clock."""

from collections.abc import Sequence
from typing import Final

from model_runtime.tensor_spec import TensorSpec

SHORT_S: Final = 0.000_5  # two hops between threads take a fifth of this, and twice as much of a lone request's time
MIN_SHORT_RUNS: Final = 16
LONG_S: Final = 0.05  # between the two, one run alone says nothing: this machine may have had other work
MAX_DELAYED_RUNS: Final = 4
RUNS_AFTER_LONG: Final = 1000  # so many short runs after a long one
RECENT_RUNS: Final = 16  # runs

# Inputs that may say how much is to be done (how often, how many), so that runs of one shape differ at will.
_INTEGER_DATATYPES: Final = frozenset({"INT16", "INT32", "INT64", "UINT16", "UINT32", "UINT64"})


class InlineRunPolicy:
    """Learns from the runs of one model. A model whose time may depend on its input's values is never trusted."""

    def __init__(self, inputs: Sequence[TensorSpec], *, runs_custom_code: bool = False) -> None:
        """`runs_custom_code`: it runs code of a user's own, which is never trusted either."""
        self._can_be = (
            not runs_custom_code
            and not any(tensor_spec.datatype in _INTEGER_DATATYPES for tensor_spec in inputs)
            and all(tensor_spec.is_fixed for tensor_spec in inputs)
        )
        self._in_a_row = self._delayed = 0
        self._largest = 0  # riders of the largest batch that was short
        self._short_lately = 0

    def is_expected_short(self, item_count: int) -> bool:
        """Tell whether a run of so many riders will be short, by all that was seen."""
        return self._can_be and self._in_a_row >= MIN_SHORT_RUNS and item_count <= self._largest

    @property
    def is_usual(self) -> bool:
        """Tell whether the model took so short for most batches lately: then it is not what jobs wait for."""
        return self._short_lately > RECENT_RUNS // 2

    def record_run(self, seconds: float, item_count: int) -> None:
        """Learn how long a run of so many riders took, with all that belongs to it."""
        if seconds <= SHORT_S:
            self._in_a_row, self._delayed = self._in_a_row + 1, 0
            self._largest = max(self._largest, item_count)
        elif seconds > LONG_S:
            self._in_a_row = -RUNS_AFTER_LONG if self.is_expected_short(item_count) else min(self._in_a_row, 0)
            self._largest = 0
        elif item_count <= self._largest:
            self._delayed += 1
            if self._delayed >= MAX_DELAYED_RUNS:
                self._largest, self._delayed = item_count - 1, 0

    def record_inference(self, seconds: float) -> None:
        """Learn how long the model took for a batch, without what belongs to it."""
        is_short = seconds <= SHORT_S
        self._short_lately = min(RECENT_RUNS, self._short_lately + 1) if is_short else max(0, self._short_lately - 1)
