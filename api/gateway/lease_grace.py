"""Decides how late on the server's clock a lease may be called in, so that no live worker loses its jobs.

A worker can renew its leases only while the server answers: whoever has just found the server again, or has seen its
clock jump, waits a beat for the workers. Owns no clock; times of ours are monotonic seconds, the server's are ms.
"""

import math

SLACK_S = 1.0


class LeaseGracePeriod:
    """What one gateway knows of the server's clock."""

    def __init__(self, sweep_interval_s: float, lease_s: float) -> None:
        self._longest_gap_s = 2 * sweep_interval_s + SLACK_S
        self.renewal_s = lease_s / 4  # within which every live worker renews its leases
        self._last_sweep: tuple[float, int] | None = None  # our time and the server's, at the last answer
        self._latest_ms = math.inf
        self._hold_until_s = math.inf

    def set_longest_lease(self, longest_s: float) -> None:
        """Take in how long workers' leases are; 0: no worker is known, which changes nothing."""
        self.renewal_s = longest_s / 4 or self.renewal_s

    def latest_ms(self, now_s: float) -> int:
        """Give the server's latest time at which the next sweep may take leases back; 0: it may take none."""
        if self._last_sweep is None or now_s - self._last_sweep[0] > self._longest_gap_s:
            self._latest_ms = self._hold_until_s = math.inf  # until it answers
        else:
            then_s, server_ms = self._last_sweep
            self._latest_ms = server_ms + (now_s - then_s + self.renewal_s) * 1000
        return 0 if now_s < self._hold_until_s else int(self._latest_ms)

    def record_sweep(self, server_ms: int, now_s: float) -> float:
        """Take in the server's time as that sweep found it; gives how many seconds too late it was, 0 mostly.

        Late is a server that stood still with our script in its socket, or one whose clock has jumped.
        """
        late_s = max(0.0, (server_ms - self._latest_ms) / 1000)
        if late_s or self._hold_until_s == math.inf:
            self._hold_until_s = now_s + self.renewal_s
        self._last_sweep = (now_s, server_ms)
        return late_s
