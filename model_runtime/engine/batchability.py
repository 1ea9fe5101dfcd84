"""Whether a model may be given several rows at once: by what it declares, then by trying with zeros.

Knows no runtime: it is handed the declared ports, first dimension included, and a function that runs arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from model_runtime.tensor_spec import DTYPES, Array, Port

Run = Callable[[dict[str, Array]], Mapping[str, Array]]


class NoMemory(Exception):
    """Not even one row of zeros has room: no caller's row will have any."""


class Verdict(NamedTuple):
    """`note` says why not, or what could not be tried. `whole`: outputs whose first dimension is not rows."""

    batchable: bool
    note: str
    whole: frozenset[str]


def judge(inputs: Sequence[Port], outputs: Sequence[Port], run: Run) -> Verdict:
    """Runs one row, then two where the declaration allows; `run` may raise anything. Raises NoMemory."""
    obstacle = _declared_obstacle(inputs, outputs)
    try:
        one = run(_zeros(inputs, 1))
    except Exception as error:  # whatever zeros do to a model, it may still serve real inputs
        if getattr(error, "fault", None) == "memory":
            raise NoMemory(str(error)) from error
        return _untried(inputs, outputs, obstacle, str(error))
    if not obstacle:
        obstacle = _uneven(one, 1) or _try_two(inputs, run)
    if not obstacle:
        return Verdict(batchable=True, note="", whole=frozenset())
    return Verdict(batchable=False, note=obstacle, whole=_whole(outputs, one))


def _declared_obstacle(inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
    for what, ports in (("input", inputs), ("output", outputs)):
        for port in ports:
            if not port.shape:
                return f"{what} {port.name!r} is a scalar, without a batch dimension"
            if port.shape[0] != -1:
                return f"{what} {port.name!r} has its first dimension fixed at {port.shape[0]}"
    return ""


def _try_two(inputs: Sequence[Port], run: Run) -> str:
    try:
        return _uneven(run(_zeros(inputs, 2)), 2)
    except Exception as error:  # noqa: BLE001 - one row ran, so two rows are what it can not take
        return f"it runs one row, but not two: {error}"


def _uneven(results: Mapping[str, Array], rows: int) -> str:
    for name, value in results.items():
        if value.shape[:1] != (rows,):
            return f"{rows} rows in, but output {name!r} has the shape {list(value.shape)}"
    return ""


def _untried(inputs: Sequence[Port], outputs: Sequence[Port], obstacle: str, error: str) -> Verdict:
    """Where free dimensions were guessed as 1, the guess may be at fault: the declaration is believed."""
    guessed = any(-1 in port.shape[1:] for port in inputs)
    note = obstacle or f"a trial with zeros{' and free dimensions of 1' if guessed else ''} failed: {error}"
    batchable = guessed and not obstacle
    return Verdict(batchable, note, frozenset() if batchable else _whole(outputs, {}))


def _whole(outputs: Sequence[Port], one: Mapping[str, Array]) -> frozenset[str]:
    """Outputs that belong to the single row as they are, such as [boxes, 4]."""
    rows = {
        port.name: 0 if not port.shape else port.shape[0] if port.shape[0] != -1 else len(one.get(port.name, (0,)))
        for port in outputs
    }
    return frozenset(name for name, count in rows.items() if count != 1)


def _zeros(inputs: Sequence[Port], rows: int) -> dict[str, Array]:
    return {
        port.name: np.zeros(
            [rows if at == 0 else abs(side) for at, side in enumerate(port.shape)],
            DTYPES[port.datatype],
        )
        for port in inputs
    }
