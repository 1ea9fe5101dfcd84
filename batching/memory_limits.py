"""The largest batches that memory has had room for, by the shape of their inputs. Owns no clock."""

from collections.abc import Hashable

PROBE_S = 600.0  # memory may have been short for another's sake: after a while twice as much is tried again


class MemoryLimits:
    """Learned from failures, forgotten by and by. Times in seconds, on the caller's clock."""

    def __init__(self, cap: int, probe_s: float = PROBE_S) -> None:
        self._cap, self._probe_s = cap, probe_s
        self._known: dict[Hashable, tuple[int, float]] = {}

    def of(self, group: Hashable, now: float) -> int:
        """Say how many riders of this group may ride together."""
        known = self._known.get(group)
        if known is None:
            return self._cap
        ceiling, since = known
        if now - since >= self._probe_s:
            ceiling = ceiling * 2
            self._known[group] = (ceiling, now)
            if ceiling >= self._cap:
                del self._known[group]
        return min(ceiling, self._cap)

    def too_many(self, group: Hashable, item_count: int, now: float) -> None:
        """Learn that memory had no room for so many."""
        known = self._known.get(group)
        ceiling = max(1, item_count // 2)
        if known is None or ceiling <= known[0]:
            self._known[group] = (ceiling, now)

    def report(self) -> dict[str, int]:
        """List what is known, readably: the group → the ceiling."""
        return {_describe_group(group): ceiling for group, (ceiling, _) in self._known.items()}


def _describe_group(group: Hashable) -> str:
    """Name a group as operators know inputs: x:<f4[3,224,224]."""
    if not isinstance(group, tuple):
        return str(group)
    return " ".join(f"{name}:{dtype}[{','.join(map(str, shape))}]" for name, dtype, shape in group)
