"""Whether a model's runs are so short that handing them to another thread costs more than they take. Owns no clock."""

from collections.abc import Sequence
from typing import Final

from model_runtime.tensor_spec import Port

SHORT_S: Final = 0.000_5  # two hops between threads take a fifth of this, and twice as much of a lone request's time
IN_A_ROW: Final = 16
LONG_S: Final = 0.05  # between the two, one run alone says nothing: this machine may have had other work
DELAYED: Final = 4
PATIENCE: Final = 1000  # so many short runs after a long one
LATELY: Final = 16  # runs

# Inputs that may say how much is to be done (how often, how many), so that runs of one shape differ at will.
_COUNTS: Final = frozenset({"INT16", "INT32", "INT64", "UINT16", "UINT32", "UINT64"})


class ShortRuns:
    """Learns from the runs of one model. A model whose time may depend on its input's values is never trusted."""

    def __init__(self, inputs: Sequence[Port], *, own_code: bool = False) -> None:
        """`own_code`: it runs code of a user's own, which is never trusted either."""
        self._can_be = (
            not own_code
            and not any(port.datatype in _COUNTS for port in inputs)
            and all(port.is_fixed for port in inputs)
        )
        self._in_a_row = self._delayed = 0
        self._largest = 0  # riders of the largest batch that was short
        self._short_lately = 0

    def expected(self, riders: int) -> bool:
        """Tell whether a run of so many riders will be short, by all that was seen."""
        return self._can_be and self._in_a_row >= IN_A_ROW and riders <= self._largest

    @property
    def are_the_rule(self) -> bool:
        """Tell whether the model took so short for most batches lately: then it is not what jobs wait for."""
        return self._short_lately > LATELY // 2

    def took(self, seconds: float, riders: int) -> None:
        """Learn how long a run of so many riders took, with all that belongs to it."""
        if seconds <= SHORT_S:
            self._in_a_row, self._delayed = self._in_a_row + 1, 0
            self._largest = max(self._largest, riders)
        elif seconds > LONG_S:
            self._in_a_row = -PATIENCE if self.expected(riders) else min(self._in_a_row, 0)
            self._largest = 0
        elif riders <= self._largest:
            self._delayed += 1
            if self._delayed >= DELAYED:
                self._largest, self._delayed = riders - 1, 0

    def inferred(self, seconds: float) -> None:
        """Learn how long the model took for a batch, without what belongs to it."""
        is_short = seconds <= SHORT_S
        self._short_lately = min(LATELY, self._short_lately + 1) if is_short else max(0, self._short_lately - 1)
