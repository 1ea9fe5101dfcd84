"""Metrics of webhooks: labels are verdicts and outcomes, never a receiver's name or address."""

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from jobs.webhooks.outbox import FIRST_ATTEMPT_BUCKETS_MS

_PREFIX = "webhooks:"


def families(counts: Mapping[str, int]) -> list[Metric]:
    """Read them from the store's counts."""
    ours = {name.removeprefix(_PREFIX): count for name, count in counts.items() if name.startswith(_PREFIX)}
    attempts = CounterMetricFamily("jitney_webhook_attempts", "Attempts to deliver a webhook", labels=["verdict"])
    ended = CounterMetricFamily("jitney_webhook_deliveries", "Deliveries that have ended", labels=["outcome"])
    for name, count in sorted(ours.items()):
        kind, _, label = name.partition(":")
        if kind in ("attempts", "ended"):
            (attempts if kind == "attempts" else ended).add_metric([label], count)
    left = ours.get("posted", 0) - sum(count for name, count in ours.items() if name.startswith("ended:"))
    waiting = GaugeMetricFamily("jitney_webhooks_waiting", "Deliveries that wait or are under way", value=max(0, left))
    return [attempts, ended, waiting, _first(ours)]


def _first(ours: Mapping[str, int]) -> HistogramMetricFamily:
    total, buckets = 0, []
    for bound in FIRST_ATTEMPT_BUCKETS_MS:
        total += ours.get(f"first:{bound}", 0)
        buckets.append((str(bound / 1000), float(total)))
    buckets.append(("+Inf", float(total + ours.get("first:inf", 0))))
    what = "Time from a job's end to the first attempt"
    return HistogramMetricFamily(
        "jitney_webhook_first_attempt_seconds", what, buckets=buckets, sum_value=ours.get("first:sum", 0) / 1000
    )
