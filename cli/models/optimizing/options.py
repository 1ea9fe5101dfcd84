"""The options of `jitney models optimize` as a value, with their defaults; `command.py` parses them."""

from pathlib import Path
from typing import Literal, NamedTuple

MIN_EXAMPLES = 8
DEFAULT_MIN_GAIN = 1.05  # a factor above the noise between two measurements of the same version
Precision = Literal["fp32", "fp16", "int8", "int8-weights"]


class OptimizeOptions(NamedTuple):
    """How to optimize a model.

    `precision`: of weights and arithmetic. `graph`: simplify the graph. `fold`: move preprocessing into the graph.
    `min_gain`: the minimum factor of throughput, if it is measured. `seconds`: duration of the measurement, 0: none.
    `provider`, `threads`: those of the measurement; "auto" and 0 mean as in model.toml.
    """

    precision: Precision = "fp32"
    calibrate: Path | None = None
    validate: Path | None = None
    fold: bool = False
    graph: bool = True
    write: bool = True
    min_agreement: float = 0.95
    min_gain: float = DEFAULT_MIN_GAIN
    provider: str = "auto"
    threads: int = 0
    seconds: float = 10.0

    @property
    def summary(self) -> str:
        """A description such as "int8, preprocessing in the graph"."""
        parts = [
            "" if self.precision == "fp32" else self.precision,
            "preprocessing in the graph" if self.fold else "",
            "simplified" if self.graph else "",
        ]
        return ", ".join(filter(None, parts))
