"""Lists settings and model files that differ between processes, for `/readyz` warnings and `/metrics`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric

from api.gateway.gateway import Gateway
from jobs.config.compared_settings import redact_value


class ProcessRef(NamedTuple):
    """A process that has one of the values."""

    part: str
    id: str
    host: str


class ConfigDifference(NamedTuple):
    """`values`: each value, and who has it; `served`: of a model version, the value that is served; else empty."""

    code: str
    what: str
    values: Mapping[str, Sequence[ProcessRef]]
    served: str = ""


def list_differences(gateway: Gateway) -> list[ConfigDifference]:
    """List what differs, as of the last look."""
    settings = [
        ConfigDifference("setting_differs", one.what, {value: _holders(who) for value, who in one.values.items()})
        for one in gateway.agreement.differences
    ]
    models = []
    for version, by_digest in gateway.catalog.cluster.digests().items():
        values = {
            digest: [ProcessRef("worker", one.id, one.host) for one in workers] for digest, workers in by_digest.items()
        }
        served = next((digest for digest, who in by_digest.items() if any(version in one.models for one in who)), "")
        models.append(ConfigDifference("model_differs", f"files of model {version}", values, served))
    return [*settings, *models]


def warnings(gateway: Gateway) -> list[dict[str, Any]]:
    """Give what differs for `/readyz`, which needs no key: without hosts, and private settings as digests."""
    return [_warning(one) for one in list_differences(gateway)]


def families(gateway: Gateway) -> list[Metric]:
    """Give what differs as metrics: how many things do, and how many processes have which value of each."""
    differing = list_differences(gateway)
    count = GaugeMetricFamily("jitney_differences", "Settings and model files that differ between processes")
    count.add_metric([], len(differing))
    labels = ["what", "value", "part", "host"]
    sides = GaugeMetricFamily("jitney_differing_processes", "Processes by the value of what differs", labels=labels)
    for one in differing:
        for value, holders in one.values.items():
            for (part, host), processes in Counter((who.part, who.host) for who in holders).items():
                sides.add_metric([one.what, value, part, host], processes)
    return [count, sides]


def _holders(processes: Sequence[Any]) -> list[ProcessRef]:
    return [ProcessRef(one.part, one.id, one.host) for one in processes]


def _warning(one: ConfigDifference) -> dict[str, Any]:
    values: list[dict[str, Any]] = [
        {"value": redact_value(one.what, value), "processes": sorted(f"{who.part} {who.id}" for who in holders)}
        for value, holders in one.values.items()
    ]
    if one.code == "model_differs":
        for side in values:
            side["served"] = side["value"] == one.served
        message = "workers have different files under the same version; those that were announced first are served"
    else:
        message = "this setting should be the same in all processes that use it"
    what = one.what.partition(" on ")[0]  # a setting on one host: its name stays inside
    return {"code": one.code, "what": what, "message": message, "values": values}
