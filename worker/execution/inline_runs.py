"""Decides whether a model's runs are short enough to run on the event loop's thread. Owns no clock."""

from collections.abc import Sequence
from typing import Final

from model_runtime.tensor_spec import TensorSpec

SHORT_S: Final = 0.000_5  # two thread switches cost a fifth of this, and twice that for a lone request
MIN_SHORT_RUNS: Final = 16
LONG_S: Final = 0.05  # a run between SHORT_S and LONG_S may be slow because of other load: one alone is ignored
MAX_DELAYED_RUNS: Final = 4
RUNS_AFTER_LONG: Final = 1000  # short runs required after a long one
RECENT_RUNS: Final = 16

# Integer inputs may control the amount of work (counts, loops), so that runs of one shape differ in time.
_INTEGER_DATATYPES: Final = frozenset({"INT16", "INT32", "INT64", "UINT16", "UINT32", "UINT64"})


class InlineRunPolicy:
    """Learns from the runs of one model. A model whose time may depend on input values never runs inline."""

    def __init__(self, inputs: Sequence[TensorSpec], *, runs_custom_code: bool = False) -> None:
        """Create a policy. `runs_custom_code`: the model has custom code, which never runs inline."""
        self._is_eligible = (
            not runs_custom_code
            and not any(tensor_spec.datatype in _INTEGER_DATATYPES for tensor_spec in inputs)
            and all(tensor_spec.is_fixed for tensor_spec in inputs)
        )
        self._streak = self._delayed = 0
        self._largest = 0  # item count of the largest short batch
        self._recent_short = 0

    def is_expected_short(self, item_count: int) -> bool:
        """Return whether a run of `item_count` items is expected to be short."""
        return self._is_eligible and self._streak >= MIN_SHORT_RUNS and item_count <= self._largest

    @property
    def is_usual(self) -> bool:
        """Return whether most recent batches were short; then the device is not the bottleneck."""
        return self._recent_short > RECENT_RUNS // 2

    def record_run(self, seconds: float, item_count: int, cpu_s: float | None = None) -> None:
        """Record the seconds of a whole run of `item_count` items.

        `cpu_s`: CPU time of its thread, if the run has only that to wait for. A run that is not long is judged by it:
        on a busy machine a short run may wait for a core, and a switch of threads would make that wait longer.
        """
        if cpu_s is not None and seconds <= LONG_S:
            seconds = cpu_s
        if seconds <= SHORT_S:
            self._streak, self._delayed = self._streak + 1, 0
            self._largest = max(self._largest, item_count)
        elif seconds > LONG_S:
            self._streak = -RUNS_AFTER_LONG if self.is_expected_short(item_count) else min(self._streak, 0)
            self._largest = 0
        elif item_count <= self._largest:
            self._delayed += 1
            if self._delayed >= MAX_DELAYED_RUNS:
                self._largest, self._delayed = item_count - 1, 0

    def record_inference(self, seconds: float) -> None:
        """Record the seconds of the model alone in a run."""
        is_short = seconds <= SHORT_S
        self._recent_short = min(RECENT_RUNS, self._recent_short + 1) if is_short else max(0, self._recent_short - 1)
