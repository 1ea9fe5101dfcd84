"""Names of the queue's event counters, which Lua scripts increment; parses their values by model and version.

| name | what |
|---|---|
| `submitted:<model>`, `reclaimed:`, `retried:`, `late:`, `rollbacks:` | events of a model |
| `finished:<model>:<outcome>` | jobs that became final |
| `outcomes:<model>:<version>:<outcome>` | the same by version |
| `faults:<model>:<version>` | of those, the ones that failed through no fault of their callers: dead letters |
| `failed:<model>:<code>` | jobs that failed, by error code |
| `kills:<model>:<version>` | workers that died while they executed jobs of this version |
| `bulks:opened`, `bulks:ended:<status>`, `bulks:lines:<outcome>` | bulks, and their lines that are stored |
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple


class RunCounts(NamedTuple):
    """Outcomes of a version's jobs that say something about the version."""

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
        """Return the increase since `before`; a queue that lost its data counts from zero again."""
        return RunCounts(*(now - then if now >= then else now for now, then in zip(self, before, strict=True)))


def sum_shard_counts(counts: Mapping[bytes, bytes], sums: Mapping[bytes, bytes]) -> dict[str, int]:
    """Parse the `:counts` hash of a shard and the submitted jobs in its `:open_totals` hash."""
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
    """Return the outcomes of a version's jobs from the counters."""
    label = f"{model}:{version}"
    succeeded = counts.get(f"outcomes:{label}:succeeded", 0)
    return RunCounts(succeeded, counts.get(f"faults:{label}", 0), counts.get(f"kills:{label}", 0))
