"""Define what a worker takes from a model's graph when it loads the model, and read it if `onnx` is installed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Coupling(NamedTuple):
    """An operator that makes rows affect each other. `quantizes`: by one scale for the whole batch."""

    operator: str
    how: str
    quantizes: bool = False

    def __str__(self) -> str:
        return f"rows are mixed by {self.operator}: {self.how}"


class GraphFacts(NamedTuple):
    """`couplings`: operators that mix rows. `heights`: the rows of the table that an integer input selects from.

    `note`: why the graph was not read; empty if it was.
    """

    couplings: Sequence[Coupling] = ()
    heights: Mapping[str, int] = {}
    note: str = ""


def read_facts(path: Path, batch_axes: Mapping[str, int] | None = None) -> GraphFacts:
    """Read the graph of an ONNX file, without its weights. `batch_axes`: the batch dimension of inputs, if not 0."""
    try:
        from model_runtime.graph.coupling import examine  # noqa: PLC0415 (onnx may not be installed)
    except ModuleNotFoundError:
        return GraphFacts(note="its graph was not read, as the onnx package is not installed")
    try:
        return examine(path, batch_axes or {})
    except Exception as error:  # noqa: BLE001 - the analysis is a help, and must not keep a model from being served
        return GraphFacts(note=f"its graph was not read ({type(error).__name__}: {error})")
