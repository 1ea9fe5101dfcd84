"""Measures the CPU time of the parts of a service over a slice, from its `/metrics`."""

import http.client
import time
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from cli.bench.load.connection import Address, get
from cli.bench.statistics import CpuUsage

# Processes report their CPU time once a second (JITNEY_METRICS_FLUSH_S); after this delay, a slice is complete.
TICK_S: Final = 1.2


class CpuReading(NamedTuple):
    """Totals of the service: CPU seconds by part, and finished jobs."""

    seconds: dict[str, float]
    jobs: float


class ServiceCpu:
    """Reads the CPU time of a service. `unknown`: the reason why it cannot be read, or empty."""

    def __init__(self, address: Address) -> None:
        self._address, self.unknown = address, ""

    def settle(self) -> None:
        """Wait until all CPU time used so far is reported."""
        self.read()
        self._wait()

    def read(self) -> CpuReading | None:
        """Read the totals; None if they are unknown."""
        if self.unknown:
            return None
        try:
            status, body = get(self._address, "/metrics")
            reading = parse_cpu_totals(body.decode()) if status == 200 else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.unknown = f"{self._address}/metrics cannot be read: {error}"
            return None
        if reading is None:
            self.unknown = f"{self._address}/metrics has no CPU time (status {status})"
        return reading

    def since(self, before: CpuReading | None) -> CpuUsage | None:
        """Wait for the last report and return the usage; None if it is unknown or the service restarted."""
        self._wait()
        after = self.read()
        if before is None or after is None:
            return None
        seconds = {part: after.seconds[part] - before.seconds.get(part, 0.0) for part in after.seconds}
        return CpuUsage(seconds, after.jobs - before.jobs) if min(seconds.values()) >= 0 else None

    def _wait(self) -> None:
        if not self.unknown:
            time.sleep(TICK_S)


def parse_cpu_totals(text: str) -> CpuReading | None:
    """Parse Prometheus text; None if it has no CPU time. Raises ValueError for invalid text."""
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    seconds = {sample.labels["part"]: sample.value for sample in families.get("jitney_cpu_seconds", ())}
    seconds.pop("background", None)  # it does nothing for jobs without a webhook
    jobs = sum(sample.value for sample in families.get("jitney_jobs_finished", ()))
    return CpuReading(seconds, jobs) if seconds else None
