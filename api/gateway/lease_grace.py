"""Decides whether a sweep may reclaim expired leases: not right after an outage, when live workers could not renew.

Workers can renew leases only while Redis answers. After an outage or a jump of the server's clock, reclaiming therefore
pauses for one renewal interval. Callers pass the time: local times are monotonic seconds, server times are ms.
"""

import math

SLACK_S = 1.0


class LeaseGracePeriod:
    """Tracks the server's clock across the sweeps of one gateway."""

    def __init__(self, sweep_interval_s: float, lease_s: float) -> None:
        self._longest_gap_s = 2 * sweep_interval_s + SLACK_S
        self.renewal_s = lease_s / 4  # every live worker renews its leases within this time
        self._last_sweep: tuple[float, int] | None = None  # local and server time of the last response
        self._latest_ms = math.inf
        self._hold_until_s = math.inf

    def set_longest_lease(self, longest_s: float) -> None:
        """Set the longest lease of any worker in seconds; 0 (no worker is known) changes nothing."""
        self.renewal_s = longest_s / 4 or self.renewal_s

    def latest_ms(self, now_s: float) -> int:
        """Return the latest server time in ms at which the next sweep may reclaim leases; 0: it may reclaim none."""
        if self._last_sweep is None or now_s - self._last_sweep[0] > self._longest_gap_s:
            self._latest_ms = self._hold_until_s = math.inf  # until the server responds
        else:
            then_s, server_ms = self._last_sweep
            self._latest_ms = server_ms + (now_s - then_s + self.renewal_s) * 1000
        return 0 if now_s < self._hold_until_s else int(self._latest_ms)

    def record_sweep(self, server_ms: int, now_s: float) -> float:
        """Record the server time of a sweep, and return by how many seconds it exceeded `latest_ms` (usually 0).

        A sweep is late if the server stalled before it ran the script, or if its clock jumped.
        """
        late_s = max(0.0, (server_ms - self._latest_ms) / 1000)
        if late_s or self._hold_until_s == math.inf:
            self._hold_until_s = now_s + self.renewal_s
        self._last_sweep = (now_s, server_ms)
        return late_s
