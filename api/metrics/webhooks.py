"""Metrics of webhook deliveries. Labels are verdicts and outcomes, never the address of a receiver."""

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from jobs.webhooks.outbox import FIRST_ATTEMPT_BUCKETS_MS

_PREFIX = "webhooks:"


def families(counts: Mapping[str, int]) -> list[Metric]:
    """Return the metrics of webhooks from the store's counts."""
    own = {name.removeprefix(_PREFIX): count for name, count in counts.items() if name.startswith(_PREFIX)}
    attempts = CounterMetricFamily("jitney_webhook_attempts", "Attempts to deliver a webhook", labels=["verdict"])
    ended = CounterMetricFamily("jitney_webhook_deliveries", "Webhook deliveries that have ended", labels=["outcome"])
    for name, count in sorted(own.items()):
        kind, _, label = name.partition(":")
        if kind in ("attempts", "ended"):
            (attempts if kind == "attempts" else ended).add_metric([label], count)
    open_deliveries = own.get("posted", 0) - sum(count for name, count in own.items() if name.startswith("ended:"))
    waiting = GaugeMetricFamily("jitney_webhooks_waiting", "Unfinished deliveries", value=max(0, open_deliveries))
    return [attempts, ended, waiting, _first_attempts(own)]


def _first_attempts(own: Mapping[str, int]) -> HistogramMetricFamily:
    total, buckets = 0, []
    for bound in FIRST_ATTEMPT_BUCKETS_MS:
        total += own.get(f"first:{bound}", 0)
        buckets.append((str(bound / 1000), float(total)))
    buckets.append(("+Inf", float(total + own.get("first:inf", 0))))
    help_text = "Time from a job's end to the first attempt"
    return HistogramMetricFamily(
        "jitney_webhook_first_attempt_seconds", help_text, buckets=buckets, sum_value=own.get("first:sum", 0) / 1000
    )
