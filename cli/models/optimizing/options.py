"""What is asked for on the command line, and what the version that comes of it is called."""

from pathlib import Path
from typing import Literal, NamedTuple

MIN_EXAMPLES = 8
DEFAULT_MIN_GAIN = 1.05  # times the throughput: two measurements of the same version differ by less
Precision = Literal["fp32", "fp16", "int8"]


class OptimizeOptions(NamedTuple):
    """`precision`: of weights and arithmetic; `graph`: whether the graph is simplified; `fold`: the pipeline into it.

    `min_gain`: times the throughput that the new version must have, where it is measured.
    `provider`, `threads` ("auto", 0: as model.toml says): what measures. `seconds`: how long, 0 for not at all.
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
    def words(self) -> str:
        """Such as "int8, pipeline in the graph"."""
        parts = [
            "" if self.precision == "fp32" else self.precision,
            "pipeline in the graph" if self.fold else "",
            "simplified" if self.graph else "",
        ]
        return ", ".join(filter(None, parts))
