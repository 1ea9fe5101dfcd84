"""Builds the part of `/metrics` that is about processes, from the reports of all live processes.

It has their memory, delays of event loops, running jobs, GPUs, and rq's queues.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from jobs.metrics.process_reports import ProcessReport

Reports = Sequence[ProcessReport]


def families(reports: Reports) -> list[Metric]:
    """Return the metrics. They are sums over processes, or the largest value where a sum means nothing."""
    return [*_parts(reports), _running(reports), _rq(reports), *_gpus(reports)]


def _parts(reports: Reports) -> list[Metric]:
    live = GaugeMetricFamily("jitney_processes", "Live processes", labels=["part", "version"])
    memory = GaugeMetricFamily("jitney_memory_bytes", "Resident memory of all processes of a part", labels=["part"])
    text = "Longest delay of timers of an event loop since the last flush"
    delay = GaugeMetricFamily("jitney_event_loop_delay_max_seconds", text, labels=["part"])
    for (part, version), count in sorted(Counter((each["part"], each["version"]) for each in reports).items()):
        live.add_metric([part, version], count)
    for part in sorted({each["part"] for each in reports}):
        own = [each for each in reports if each["part"] == part]
        memory.add_metric([part], sum(each["memory_bytes"] for each in own))
        delay.add_metric([part], max(each["loop_delay_s"] for each in own))
    return [live, memory, delay]


def _running(reports: Reports) -> Metric:
    running = GaugeMetricFamily("jitney_running_jobs", "Jobs that live workers hold", labels=["model", "version"])
    totals: Counter[str] = Counter()
    for each in reports:
        totals.update(each.get("running", {}))
    for name, count in sorted(totals.items()):
        running.add_metric(name.split(" "), count)
    return running


def _rq(reports: Reports) -> Metric:
    waiting = GaugeMetricFamily("jitney_rq_jobs", "rq jobs that wait for a background process", labels=["queue"])
    lengths: defaultdict[str, int] = defaultdict(int)
    for each in reports:
        for queue, length in each.get("rq", {}).items():
            lengths[queue] = max(lengths[queue], length)
    for queue, length in sorted(lengths.items()):
        waiting.add_metric([queue], length)
    return waiting


def _gpus(reports: Reports) -> list[Metric]:
    labels = ["host", "gpu"]
    used = GaugeMetricFamily("jitney_gpu_memory_used_bytes", "Used memory of a GPU", labels=labels)
    total = GaugeMetricFamily("jitney_gpu_memory_bytes", "Memory of a GPU", labels=labels)
    busy = GaugeMetricFamily("jitney_gpu_busy_ratio", "Share of the last second in which a GPU ran", labels=labels)
    found = {(each["host"], str(int(gpu["gpu"]))): gpu for each in reports for gpu in each.get("gpus", [])}
    for (host, number), gpu in sorted(found.items()):
        used.add_metric([host, number], gpu["used_bytes"])
        total.add_metric([host, number], gpu["total_bytes"])
        busy.add_metric([host, number], gpu["busy"])
    return [used, total, busy]
