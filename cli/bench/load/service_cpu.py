"""CPU time of the service's parts over a slice, from what the service itself says at `/metrics`, wherever it runs."""

import http.client
import time
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from cli.bench.load.connection import Address, get
from cli.bench.statistics import CpuUsage

# Processes tell theirs once a second (JITNEY_METRICS_FLUSH_S): after so long, all that a slice used has been told.
TICK_S: Final = 1.2


class CpuReading(NamedTuple):
    """Totals since ever: CPU seconds by part, and jobs that ended."""

    seconds: dict[str, float]
    jobs: float


class ServiceCpu:
    """What a service uses; `unknown`: why that is not known, empty where it is."""

    def __init__(self, address: Address) -> None:
        self._address, self.unknown = address, ""

    def settle(self) -> None:
        """Have all told that was used so far."""
        self.read()
        self._wait()

    def read(self) -> CpuReading | None:
        """Read now."""
        if self.unknown:
            return None
        try:
            status, body = get(self._address, "/metrics")
            reading = parse_cpu_totals(body.decode()) if status == 200 else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.unknown = f"{self._address}/metrics can not be read: {error}"
            return None
        if reading is None:
            self.unknown = f"{self._address}/metrics does not tell it (it answers {status})"
        return reading

    def since(self, before: CpuReading | None) -> CpuUsage | None:
        """Wait until all is told, and say what was used; None where the service does not tell, or began anew."""
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
    """Read Prometheus' text; None where it says nothing of CPU time. Raises ValueError for what is no such text."""
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    seconds = {one.labels["part"]: one.value for one in families.get("jitney_cpu_seconds", ())}
    return CpuReading(seconds, sum(one.value for one in families.get("jitney_jobs_finished", ()))) if seconds else None
