"""Prometheus metrics of the whole queue, read from Redis at the moment of the scrape.

They are the same on every gateway: scrape one, or take the maximum, never the sum.
"""

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from api.gateway.gateway import Gateway
from api.metrics import bulk, config_differences, webhooks
from jobs.metrics import cpu_time, server_memory
from jobs.metrics import histograms as stats
from jobs.models import version_routing
from jobs.redis_client import durability
from jobs.store import dead_letters

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

# The store's counts, `<event>:<model>[:<outcome>]` → name, meaning, and labels beside the model.
_EVENTS = {
    "submitted": ("jitney_jobs_submitted", "Jobs accepted"),
    "finished": ("jitney_jobs_finished", "Jobs that became final", "outcome"),
    "outcomes": ("jitney_version_jobs_finished", "The same by version", "version", "outcome"),
    "faults": ("jitney_version_faults", "Jobs that failed through no fault of their callers", "version"),
    "kills": ("jitney_version_kills", "Workers that died with jobs of a version in hands", "version"),
    "rollbacks": ("jitney_rollbacks", "Versions that were taken back by themselves"),
    "reclaimed": ("jitney_jobs_reclaimed", "Jobs taken back from lost and dead workers"),
    "retried": ("jitney_jobs_retried", "Tries that went wrong and were not the last"),
    "late": ("jitney_late_results", "Results refused because the job was no longer that worker's"),
}


class _StaticCollector(Collector):
    """Metrics that were read already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def render(gateway: Gateway) -> bytes:
    """Read everything and write it in Prometheus' text format."""
    await gateway.refresh_models()  # as of now: another gateway's last look is as old as its own clock says
    cluster = gateway.catalog.cluster
    counts = await gateway.store.counts()
    histograms = await stats.read_histograms(gateway.store.connection, gateway.catalog.names())
    depth = GaugeMetricFamily("jitney_waiting_jobs", "Jobs in line", labels=["model", "version", "lane"])
    for card in cluster.cards:
        for lane, waiting in (await gateway.store.depth(card["name"], card["version"])).items():
            depth.add_metric([card["name"], card["version"], lane], waiting)
    shares = GaugeMetricFamily("jitney_version_share", "Share of a model's new jobs", labels=["model", "version"])
    for name in gateway.catalog.names():
        for version, percent in version_routing.compute_shares(cluster, gateway.catalog.plan(name), name).items():
            shares.add_metric([name, version], percent / version_routing.ALL_PERCENT)
    workers = GaugeMetricFamily("jitney_workers", "Live workers", value=len(cluster.workers))
    letters, letter_bytes = await dead_letters.count_dead_letters(gateway.store)
    dead = [
        GaugeMetricFamily("jitney_dead_letters", "Dead letters kept", value=letters),
        GaugeMetricFamily("jitney_dead_letter_bytes", "Bytes of their inputs", value=letter_bytes),
    ]
    server = await server_memory.read_server_memory(gateway.store.connection)
    full = [
        GaugeMetricFamily("jitney_server_memory_used_bytes", "Memory of the queue's server", value=server.used_bytes),
        GaugeMetricFamily("jitney_server_memory_limit_bytes", "And the most it may use", value=server.limit_bytes),
    ]
    unsafe = GaugeMetricFamily("jitney_server_unsafe", "1: the queue's server may lose jobs", labels=["check"])
    if (seen := gateway.store.connection.safety) is not None:
        hazards = {hazard.check for hazard in seen.hazards}
        for check in durability.CHECKS:
            if check not in seen.unknown:
                unsafe.add_metric([check], float(check in hazards))
    spent = CounterMetricFamily("jitney_cpu_seconds", "CPU time of all processes of a part", labels=["part"])
    for part, seconds in (await cpu_time.read_cpu_seconds(gateway.store.connection)).items():
        spent.add_metric([part], seconds)
    registry = CollectorRegistry()
    counted = [*_jobs(counts), *webhooks.families(counts), *bulk.families(counts)]
    registry.register(
        _StaticCollector(
            [
                *counted,
                depth,
                shares,
                workers,
                *dead,
                *full,
                unsafe,
                spent,
                *config_differences.families(gateway),
                *_histograms(histograms),
            ]
        )
    )
    return generate_latest(registry)


def _jobs(counts: Mapping[str, int]) -> list[Metric]:
    families = {
        event: CounterMetricFamily(name, what, labels=["model", *more])
        for event, (name, what, *more) in _EVENTS.items()
    }
    for name, count in sorted(counts.items()):
        event, *labels = name.split(":")
        if event in families and len(labels) == len(_EVENTS[event]) - 1:  # a later release may count more
            families[event].add_metric(labels, count)
    return list(families.values())


def _histograms(by_model: Mapping[str, Mapping[str, int]]) -> list[Metric]:
    sizes = HistogramMetricFamily("jitney_batch_size", "Riders of the batches that ran", labels=["model"])
    stages = HistogramMetricFamily("jitney_stage_seconds", "Time of a job by stage", labels=["model", "stage"])
    for model, counts in by_model.items():
        sizes.add_metric([model], *_buckets(counts, "size", 1))
        for stage in stats.STAGES:
            stages.add_metric([model, stage], *_buckets(counts, stage, 1000))
    return [sizes, stages]


def _buckets(counts: Mapping[str, int], what: str, per_unit: int) -> tuple[list[tuple[str, float]], float]:
    """Sum up the counts of one histogram: cumulative buckets, and the sum (kept in µs for times)."""
    total, buckets = 0, []
    for bound in stats.BOUNDS[what]:
        total += counts.get(f"{what}:{bound}", 0)
        buckets.append((str(bound / per_unit), float(total)))
    buckets.append(("+Inf", float(total + counts.get(f"{what}:inf", 0))))
    return buckets, counts.get(f"{what}:sum", 0) / (per_unit * per_unit if per_unit > 1 else 1)
