"""Lists settings and model files that differ between processes, for `/readyz` warnings and `/metrics`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric

from api.gateway.gateway import Gateway
from jobs.config.compared_settings import redact_value


class ProcessRef(NamedTuple):
    """A process that has one of the differing values."""

    part: str
    id: str
    host: str


class ConfigDifference(NamedTuple):
    """A setting or model file that differs: each value with its processes; `served` is the digest in use, if any."""

    code: str
    what: str
    values: Mapping[str, Sequence[ProcessRef]]
    served: str = ""


def list_differences(gateway: Gateway) -> list[ConfigDifference]:
    """Return all differences as of the last refresh."""
    settings = [
        ConfigDifference("setting_differs", found.what, {value: _holders(ps) for value, ps in found.values.items()})
        for found in gateway.agreement.differences
    ]
    models = []
    for version, by_digest in gateway.catalog.cluster.digests().items():
        values = {digest: [ProcessRef("worker", w.id, w.host) for w in ws] for digest, ws in by_digest.items()}
        served = next((digest for digest, ws in by_digest.items() if any(version in w.models for w in ws)), "")
        models.append(ConfigDifference("model_differs", f"files of model {version}", values, served))
    return [*settings, *models]


def warnings(gateway: Gateway) -> list[dict[str, Any]]:
    """Return the differences for `/readyz`. It needs no key, so hosts are left out and private values are digests."""
    return [_warning(difference) for difference in list_differences(gateway)]


def families(gateway: Gateway) -> list[Metric]:
    """Return the differences as metrics: their number, and the number of processes by value."""
    differing = list_differences(gateway)
    count = GaugeMetricFamily("jitney_differences", "Settings and model files that differ between processes")
    count.add_metric([], len(differing))
    labels = ["what", "value", "part", "host"]
    by_value = GaugeMetricFamily("jitney_differing_processes", "Processes by the value that differs", labels=labels)
    for difference in differing:
        for value, holders in difference.values.items():
            for (part, host), processes in Counter((holder.part, holder.host) for holder in holders).items():
                by_value.add_metric([difference.what, value, part, host], processes)
    return [count, by_value]


def _holders(processes: Sequence[Any]) -> list[ProcessRef]:
    return [ProcessRef(process.part, process.id, process.host) for process in processes]


def _warning(difference: ConfigDifference) -> dict[str, Any]:
    values: list[dict[str, Any]] = [
        {"value": redact_value(difference.what, value), "processes": sorted(f"{h.part} {h.id}" for h in holders)}
        for value, holders in difference.values.items()
    ]
    if difference.code == "model_differs":
        for entry in values:
            entry["served"] = entry["value"] == difference.served
        message = "workers have different files under the same version; only those announced first are served"
    else:
        message = "this setting must be the same in all processes that use it"
    what = difference.what.partition(" on ")[0]  # remove the host name
    return {"code": difference.code, "what": what, "message": message, "values": values}
