"""How many CPUs a process may use. Imports nothing of size: those who start workers ask too."""

import os


def usable_cpus() -> int:
    """Count the CPUs this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
