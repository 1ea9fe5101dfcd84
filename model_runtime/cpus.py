"""How many CPUs a process may use, and which, as CPUS says. Imports nothing large: what starts workers asks too."""

import os
import re
from collections.abc import Collection, Sequence
from typing import Any

MAX_CPUS = 1024
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_ALLOWED = f"a number of CPUs from 1 to {MAX_CPUS}, or a list of their numbers such as 8-15 or 0,2-3"


class Cpus(int):
    """A number of CPUs; `named`: which they are, where CPUS lists them, else nothing."""

    named: tuple[int, ...] = ()


def usable_cpus() -> int:
    """Count the CPUs this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_cpus(value: Any) -> Cpus:
    """Read CPUS: a number of CPUs (`8`), or a list (`8-15`, `0,2-3`). Raises ValueError that says what is allowed."""
    text = str(value).strip()
    if text.isascii() and text.isdigit() and len(text) < 19:
        if 1 <= int(text) <= MAX_CPUS:
            return Cpus(text)
    elif "-" in text or "," in text:
        return cpus_by_number(_parse_list(text))
    raise ValueError("must be " + _ALLOWED)


def cpus_by_number(numbers: Collection[int]) -> Cpus:
    """Give these CPUs; raises ValueError where this process may not use one of them."""
    if not hasattr(os, "sched_getaffinity"):
        raise ValueError("this system does not bind a process to CPUs: give a number of them")
    usable = os.sched_getaffinity(0)
    if not set(numbers) <= usable:
        raise ValueError(f"this process may use CPUs {format_cpus(sorted(usable))}; allowed: {_ALLOWED}")
    cpus = Cpus(len(set(numbers)))
    cpus.named = tuple(sorted(set(numbers)))
    return cpus


def format_cpus(numbers: Sequence[int]) -> str:
    """Write ascending numbers as a list with ranges: `0,2-3`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 or len(runs) == 1 else f"{run[0]}" for run in runs)


def cpus_of_process(cpus: Cpus, nth: int, parts: int) -> str:
    """Give CPUS for the nth (from 0) of so many processes: its part of a list; the same number for each."""
    if not cpus.named:
        return str(int(cpus))
    mine = cpus.named[nth * len(cpus.named) // parts : (nth + 1) * len(cpus.named) // parts]
    return format_cpus(mine or cpus.named)


def bind_process(cpus: Cpus) -> None:
    """Keep this process, and all that it starts, on the CPUs that are listed; on all of its own where none is."""
    if cpus.named:
        os.sched_setaffinity(0, cpus.named)


def _parse_list(text: str) -> list[int]:
    numbers: list[int] = []
    for word in text.split(","):
        found = _RANGE.fullmatch(word.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise ValueError("must be " + _ALLOWED)
        numbers += range(first, last + 1)
    return numbers
