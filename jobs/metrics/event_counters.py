"""What the queue has counted since it began: of whole models, and of each of their versions.

| name | what |
|---|---|
| `submitted:<model>`, `reclaimed:`, `retried:`, `late:`, `rollbacks:` | events of a model |
| `finished:<model>:<outcome>` | jobs that became final |
| `outcomes:<model>:<version>:<outcome>` | the same by version |
| `faults:<model>:<version>` | those of them that failed through no fault of their callers: dead letters |
| `kills:<model>:<version>` | workers that died with jobs of this version in hands |
| `bulks:opened`, `bulks:ended:<status>`, `bulks:lines:<outcome>` | bulks, and their lines that are stored |
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple


class RunCounts(NamedTuple):
    """How a version's jobs ended, as far as that says something about the version."""

    succeeded: int = 0
    faults: int = 0
    kills: int = 0

    @property
    def judged(self) -> int:
        return self.succeeded + self.faults

    @property
    def fault_share(self) -> float:
        return self.faults / self.judged if self.judged else 0.0

    def less(self, before: "RunCounts") -> "RunCounts":
        """Give what came on top; a queue that has lost its data counts from the start again."""
        return RunCounts(*(now - then if now >= then else now for now, then in zip(self, before, strict=True)))


def sum_shard_counts(counts: Mapping[bytes, bytes], sums: Mapping[bytes, bytes]) -> dict[str, int]:
    """Read a shard's `:counts` and the jobs submitted among its `:open_totals`."""
    totals: Counter[str] = Counter()
    for name, value in counts.items():
        if not value.isdigit():
            continue
        match name.decode().split(":"):
            case ["finished", model, version, outcome]:
                totals[f"finished:{model}:{outcome}"] += int(value)
                totals[f"outcomes:{model}:{version}:{outcome}"] += int(value)
            case _:
                totals[name.decode()] += int(value)
    for name, value in sums.items():
        if name.endswith(b":submitted") and value.isdigit():
            totals[f"submitted:{name[:-10].decode()}"] += int(value)
    return totals


def get_run_counts(counts: Mapping[str, int], model: str, version: str) -> RunCounts:
    """Pick out how a version's jobs ended."""
    which = f"{model}:{version}"
    succeeded = counts.get(f"outcomes:{which}:succeeded", 0)
    return RunCounts(succeeded, counts.get(f"faults:{which}", 0), counts.get(f"kills:{which}", 0))
