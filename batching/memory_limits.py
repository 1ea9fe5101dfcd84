"""Learns from out-of-memory failures how large a batch of each input shape may be. Owns no clock."""

from collections.abc import Hashable

PROBE_S = 600.0  # another process may have used the memory: after this time twice the size is tried


class MemoryLimits:
    """Batch size limits by group. A limit doubles every `probe_s` until it is gone. Times in seconds."""

    def __init__(self, cap: int, probe_s: float = PROBE_S) -> None:
        self._cap, self._probe_s = cap, probe_s
        self._known: dict[Hashable, tuple[int, float]] = {}

    def of(self, group: Hashable, now: float) -> int:
        """Return how many items of this group one batch may hold."""
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
        """Record that a batch of `item_count` items ran out of memory: the limit becomes half of it."""
        known = self._known.get(group)
        ceiling = max(1, item_count // 2)
        if known is None or ceiling <= known[0]:
            self._known[group] = (ceiling, now)

    def report(self) -> dict[str, int]:
        """Return the known limits by readable group name."""
        return {_describe_group(group): ceiling for group, (ceiling, _) in self._known.items()}


def _describe_group(group: Hashable) -> str:
    """Return a readable name of a group, such as x:<f4[3,224,224]."""
    if not isinstance(group, tuple):
        return str(group)
    return " ".join(f"{name}:{dtype}[{','.join(map(str, shape))}]" for name, dtype, shape in group)
