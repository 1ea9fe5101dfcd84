"""Metrics of bulks, which the wire calls batches: how many there are, how they ended, and their lines."""

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_PREFIX = "bulks:"


def families(counts: Mapping[str, int]) -> list[Metric]:
    """Read them from the store's counts."""
    ours = {name.removeprefix(_PREFIX): count for name, count in counts.items() if name.startswith(_PREFIX)}
    ended = CounterMetricFamily("jitney_bulks_ended", "Bulks that have ended", labels=["status"])
    lines = CounterMetricFamily("jitney_bulk_lines", "Lines whose outcome is stored", labels=["outcome"])
    for name, count in sorted(ours.items()):
        kind, _, label = name.partition(":")
        if kind in ("ended", "lines"):
            (ended if kind == "ended" else lines).add_metric([label], count)
    left = ours.get("opened", 0) - sum(count for name, count in ours.items() if name.startswith("ended:"))
    return [ended, lines, GaugeMetricFamily("jitney_bulks_open", "Bulks that have not ended", value=max(0, left))]
