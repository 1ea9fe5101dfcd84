"""Parse JITNEY_CPUS and bind processes to CPUs. Imports nothing large, as the process launcher uses it too."""

import os
import re
from collections.abc import Collection, Sequence
from typing import Any

MAX_CPUS = 1024
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_ALLOWED = f"a number of CPUs from 1 to {MAX_CPUS}, or a list of their numbers such as 8-15 or 0,2-3"


class Cpus(int):
    """A number of CPUs. `named`: their numbers if JITNEY_CPUS lists them, else empty."""

    named: tuple[int, ...] = ()


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use; in a container it can be less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_cpus(value: Any) -> Cpus:
    """Parse a CPU count (`8`) or a list of CPU numbers (`8-15`, `0,2-3`). Raises ValueError for anything else."""
    text = str(value).strip()
    if text.isascii() and text.isdigit() and len(text) < 19:
        if 1 <= int(text) <= MAX_CPUS:
            return Cpus(text)
    elif "-" in text or "," in text:
        return cpus_by_number(_parse_list(text))
    raise ValueError("must be " + _ALLOWED)


def cpus_by_number(numbers: Collection[int]) -> Cpus:
    """Return these CPUs. Raises ValueError if this process may not use one of them."""
    if not hasattr(os, "sched_getaffinity"):
        raise ValueError("this system cannot bind a process to CPUs; allowed: a number of CPUs")
    usable = os.sched_getaffinity(0)
    if not set(numbers) <= usable:
        raise ValueError(f"this process may use CPUs {format_cpus(sorted(usable))}; allowed: {_ALLOWED}")
    cpus = Cpus(len(set(numbers)))
    cpus.named = tuple(sorted(set(numbers)))
    return cpus


def format_cpus(numbers: Sequence[int]) -> str:
    """Format ascending numbers as a list with ranges: `0,2-3`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 or len(runs) == 1 else f"{run[0]}" for run in runs)


def cpus_of_process(cpus: Cpus, nth: int, parts: int) -> str:
    """Return JITNEY_CPUS for process `nth` (from 0) of `parts`: its share of a list, or the unchanged number."""
    if not cpus.named:
        return str(int(cpus))
    share = cpus.named[nth * len(cpus.named) // parts : (nth + 1) * len(cpus.named) // parts]
    return format_cpus(share or cpus.named)


def bind_process(cpus: Cpus) -> None:
    """Bind this process and its children to the listed CPUs. Does nothing if none are listed."""
    if cpus.named:
        os.sched_setaffinity(0, cpus.named)


def _parse_list(text: str) -> list[int]:
    numbers: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError("must be " + _ALLOWED)
        numbers += range(first, last + 1)
    return numbers
