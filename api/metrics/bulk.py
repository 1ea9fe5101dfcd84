"""Metrics of bulk jobs (batches in OpenAI's API): how many are open, how they ended, and their lines."""

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_PREFIX = "bulks:"


def families(counts: Mapping[str, int]) -> list[Metric]:
    """Return the metrics of bulk jobs from the store's counts."""
    own = {name.removeprefix(_PREFIX): count for name, count in counts.items() if name.startswith(_PREFIX)}
    ended = CounterMetricFamily("jitney_bulks_ended", "Bulk jobs that have ended", labels=["status"])
    lines = CounterMetricFamily("jitney_bulk_lines", "Lines of bulk jobs whose outcome is stored", labels=["outcome"])
    for name, count in sorted(own.items()):
        kind, _, label = name.partition(":")
        if kind in ("ended", "lines"):
            (ended if kind == "ended" else lines).add_metric([label], count)
    open_bulks = own.get("opened", 0) - sum(count for name, count in own.items() if name.startswith("ended:"))
    return [ended, lines, GaugeMetricFamily("jitney_bulks_open", "Unfinished bulk jobs", value=max(0, open_bulks))]
