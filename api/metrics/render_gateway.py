"""Renders the Prometheus metrics of one gateway, all processes of its port together, for `/metrics/process`.

They are sums over these processes. Scrape every gateway, and add them up.
"""

import platform
from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from api.metrics.exposition import to_text
from api.metrics.process_counters import BOUNDS_S, Histogram, ProcessCounts, RouteCounts
from jobs.config.settings_agreement import release


def render(counts: ProcessCounts) -> bytes:
    """Return the metrics in Prometheus' text format."""
    build = GaugeMetricFamily("jitney_build_info", "Release of this gateway; always 1", labels=["version", "python"])
    build.add_metric([release(), platform.python_version()], 1)
    delay = HistogramMetricFamily("jitney_event_loop_delay_seconds", "Delay of timers of the event loop")
    delay.add_metric([], *_cumulate(counts.loop_delay))
    memory = GaugeMetricFamily("jitney_process_memory_bytes", "Resident memory", value=counts.memory_bytes)
    cpu = CounterMetricFamily("jitney_process_cpu_seconds", "CPU time", value=counts.cpu_us / 1e6)
    processes = GaugeMetricFamily("jitney_gateway_processes", "Processes behind this port", value=counts.processes)
    connections = GaugeMetricFamily("jitney_http_connections", "Open connections", value=counts.connections)
    return to_text([build, processes, memory, cpu, delay, connections, *_requests(counts.routes)])


def _requests(routes: Iterable[RouteCounts]) -> Sequence[Metric]:
    labels = ["method", "route"]
    requests = CounterMetricFamily("jitney_http_requests", "Requests that have ended", labels=[*labels, "status"])
    seconds = HistogramMetricFamily("jitney_http_request_seconds", "Time of a request", labels=labels)
    for each in routes:
        for status, count in each.statuses.items():
            requests.add_metric([each.method, each.route, str(status) if status else "other"], count)
        seconds.add_metric([each.method, each.route], *_cumulate(each.seconds))
    return requests, seconds


def _cumulate(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets of a histogram, and its sum in seconds."""
    total, buckets = 0, []
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), histogram.buckets, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets, histogram.sum_us / 1e6
