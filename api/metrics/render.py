"""Renders the Prometheus metrics of the whole queue, read from Redis at each scrape.

Every gateway reports the same values. Scrape one gateway, or take the maximum of several; never add them up.
"""

from collections.abc import Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from api.gateway.gateway import Gateway
from api.metrics import config_differences, process_families
from api.metrics.exposition import to_text
from jobs.metrics import cpu_time, process_reports, refusals
from jobs.metrics import histograms as stats
from jobs.metrics.server_memory import read_server_memory
from jobs.models import version_routing
from jobs.redis_client import durability
from jobs.store import dead_letters, outputs
from jobs.store.queue_states import read_queue_states
from jobs.webhooks.outbox import FIRST_ATTEMPT_BUCKETS_MS

# Event of the store's counts (`<event>:<model>[:<label>…]`) → metric name, help text, labels besides the model.
_EVENTS = {
    "submitted": ("jitney_jobs_submitted", "Jobs accepted"),
    "finished": ("jitney_jobs_finished", "Jobs that became final", "outcome"),
    "failed": ("jitney_jobs_failed", "Jobs that failed, by error code", "code"),
    "outcomes": ("jitney_version_jobs_finished", "Jobs that became final, by version", "version", "outcome"),
    "faults": ("jitney_version_faults", "Jobs that failed through no fault of their caller", "version"),
    "kills": ("jitney_version_kills", "Workers that died while they ran jobs of a version", "version"),
    "rollbacks": ("jitney_rollbacks", "Versions that were rolled back automatically"),
    "reclaimed": ("jitney_jobs_reclaimed", "Jobs reclaimed from lost and dead workers"),
    "retried": ("jitney_jobs_retried", "Failed attempts that were retried"),
    "late": ("jitney_late_results", "Results refused because the worker had lost its lease"),
}
_BEGUN = {"webhooks": "posted", "bulks": "opened"}  # the count of those that have begun


async def render(gateway: Gateway) -> bytes:
    """Read all metrics and return them in Prometheus' text format; raises StoreUnavailable."""
    await gateway.refresh_models()  # so that all gateways report the same values
    cluster = gateway.catalog.cluster
    counts = await gateway.store.counts()
    histograms = await stats.read_histograms(gateway.store.connection, gateway.catalog.names())
    waiting = await _waiting(gateway)
    shares = GaugeMetricFamily("jitney_version_share", "Share of a model's new jobs", labels=["model", "version"])
    for name in gateway.catalog.names():
        for version, percent in version_routing.compute_shares(cluster, gateway.catalog.plan(name), name).items():
            shares.add_metric([name, version], percent / version_routing.ALL_PERCENT)
    workers = GaugeMetricFamily("jitney_workers", "Live workers", value=len(cluster.workers))
    dead_letter_count, dead_letter_bytes = await dead_letters.count_dead_letters(gateway.store)
    dead = [
        GaugeMetricFamily("jitney_dead_letters", "Stored dead letters", value=dead_letter_count),
        GaugeMetricFamily("jitney_dead_letter_bytes", "Bytes of their inputs", value=dead_letter_bytes),
    ]
    limited = gateway.store.tenants.with_byte_quota()
    kept = await outputs.count_kept_bytes(gateway.store.connection, gateway.store.settings.shards, limited)
    of_tenants = GaugeMetricFamily("jitney_tenant_output_bytes", "Bytes of kept outputs of a tenant", labels=["tenant"])
    for tenant in limited:
        of_tenants.add_metric([tenant], kept[tenant])
    kept_outputs = [
        GaugeMetricFamily("jitney_output_bytes", "Bytes of kept outputs that are counted", value=kept[""]),
        of_tenants,
    ]
    server = await read_server_memory(gateway.store.connection)
    memory = [
        GaugeMetricFamily("jitney_server_memory_used_bytes", "Memory that Redis uses", value=server.used_bytes),
        GaugeMetricFamily("jitney_server_memory_limit_bytes", "Memory that Redis may use", value=server.limit_bytes),
    ]
    unsafe = GaugeMetricFamily("jitney_server_unsafe", "1 if Redis may lose jobs", labels=["check"])
    if (safety := gateway.store.connection.safety) is not None:
        hazards = {hazard.check for hazard in safety.hazards}
        for check in durability.CHECKS:
            if check not in safety.unknown:
                unsafe.add_metric([check], float(check in hazards))
    spent = CounterMetricFamily("jitney_cpu_seconds", "CPU time of all processes, by part", labels=["part"])
    for part, seconds in (await cpu_time.read_cpu_seconds(gateway.store.connection)).items():
        spent.add_metric([part], seconds)
    refused = CounterMetricFamily("jitney_refusals", "Requests and jobs that were refused, by code", labels=["code"])
    for code, count in sorted((await refusals.read_refusals(gateway.store.connection)).items()):
        refused.add_metric([code], count)
    counted = [*_jobs(counts), *_webhooks(counts), *_bulk_jobs(counts), refused]
    metrics = [*counted, *waiting, _paused(gateway), shares, workers, *dead, *kept_outputs, *memory, unsafe, spent]
    reports = await process_reports.read_reports(gateway.store.connection)
    of_models = [*_histograms(histograms), *_batches(histograms)]
    return to_text([*metrics, *process_families.families(reports), *config_differences.families(gateway), *of_models])


async def _waiting(gateway: Gateway) -> list[Metric]:
    labels = ["model", "version", "lane"]
    jobs = GaugeMetricFamily("jitney_waiting_jobs", "Jobs that wait in the queue", labels=labels)
    oldest = GaugeMetricFamily("jitney_oldest_waiting_seconds", "Age of the oldest waiting job", labels=labels)
    store, now_us = gateway.store, await gateway.store.connection.now_ms() * 1000
    for card in gateway.catalog.cluster.cards:
        name, version = card["name"], card["version"]
        for lane, state in (await read_queue_states(store.connection, store.roots, name, version)).items():
            jobs.add_metric([name, version, lane], state.waiting)
            oldest.add_metric([name, version, lane], max(0, now_us - (state.oldest_us or now_us)) / 1e6)
    return [jobs, oldest]


def _paused(gateway: Gateway) -> Metric:
    family = GaugeMetricFamily("jitney_queue_paused", "1 if the queue is paused", labels=["model", "lane", "submits"])
    for (name, lane), pause in sorted(gateway.pauses.state.queues.items()):
        family.add_metric([name, lane, pause.submits], 1)
    return family


def _jobs(counts: Mapping[str, int]) -> list[Metric]:
    families = {}
    for event, (metric, text, *more) in _EVENTS.items():
        families[event] = CounterMetricFamily(metric, text, labels=["model", *more])
    for name, count in sorted(counts.items()):
        event, *labels = name.split(":")
        if event in families and len(labels) == len(_EVENTS[event]) - 1:  # a newer release may use other labels
            families[event].add_metric(labels, count)
    return list(families.values())


def _webhooks(counts: Mapping[str, int]) -> list[Metric]:
    """Return the metrics of webhooks. Labels are verdicts and outcomes, never the address of a receiver."""
    attempts = CounterMetricFamily("jitney_webhook_attempts", "Attempts to deliver a webhook", labels=["verdict"])
    ended = CounterMetricFamily("jitney_webhook_deliveries", "Webhook deliveries that have ended", labels=["outcome"])
    still_open = _fill(counts, "webhooks", attempts=attempts, ended=ended)
    waiting = GaugeMetricFamily("jitney_webhooks_waiting", "Unfinished deliveries", value=still_open)
    buckets, sum_s = _buckets(counts, "webhooks:first", FIRST_ATTEMPT_BUCKETS_MS, 1000)
    help_text = "Time from a job's end to the first attempt"
    name = "jitney_webhook_first_attempt_seconds"
    return [attempts, ended, waiting, HistogramMetricFamily(name, help_text, buckets=buckets, sum_value=sum_s / 1000)]


def _bulk_jobs(counts: Mapping[str, int]) -> list[Metric]:
    ended = CounterMetricFamily("jitney_bulks_ended", "Bulk jobs that have ended", labels=["status"])
    lines = CounterMetricFamily("jitney_bulk_lines", "Lines of bulk jobs whose outcome is stored", labels=["outcome"])
    still_open = _fill(counts, "bulks", ended=ended, lines=lines)
    return [ended, lines, GaugeMetricFamily("jitney_bulks_open", "Unfinished bulk jobs", value=still_open)]


def _fill(counts: Mapping[str, int], event: str, **families: CounterMetricFamily) -> int:
    """Add the counts `<event>:<family>:<label>` to their families; return how many have begun and not ended."""
    still_open = counts.get(f"{event}:{_BEGUN[event]}", 0)
    for name, count in sorted(counts.items()):
        of, _, rest = name.partition(":")
        family, _, label = rest.partition(":")
        if of == event and family in families:
            families[family].add_metric([label], count)
            still_open -= count if family == "ended" else 0
    return max(0, still_open)


def _histograms(by_model: Mapping[str, Mapping[str, int]]) -> list[Metric]:
    sizes = HistogramMetricFamily("jitney_batch_size", "Items in each batch that ran", labels=["model"])
    stages = HistogramMetricFamily("jitney_stage_seconds", "Time of a job by stage", labels=["model", "stage"])
    for model, counts in by_model.items():
        sizes.add_metric([model], *_buckets(counts, "size", stats.BOUNDS["size"], 1))
        for stage in stats.STAGES:
            buckets, sum_us = _buckets(counts, stage, stats.BOUNDS[stage], 1000)
            stages.add_metric([model, stage], buckets, sum_us / 1e6)
    return [sizes, stages]


def _batches(by_model: Mapping[str, Mapping[str, int]]) -> list[Metric]:
    closed = CounterMetricFamily("jitney_batches", "Batches, by what closed them", labels=["model", "reason"])
    splits = CounterMetricFamily("jitney_batch_splits", "Bisections of failed batches", labels=["model"])
    work = CounterMetricFamily("jitney_batch_work", "Rows that ran, or units of length", labels=["model"])
    padding = CounterMetricFamily("jitney_batch_padding", "Padding among them", labels=["model"])
    undecoded = CounterMetricFamily("jitney_decode_errors", "Inputs that cannot be decoded", labels=["model", "kind"])
    plain = {stats.SPLITS: splits, stats.WORK: work, stats.PADDING: padding}
    labelled = {stats.CLOSED: closed, stats.UNDECODED: undecoded}
    for model, counts in by_model.items():
        for name, count in sorted(counts.items()):
            counter, _, label = name.partition(":")
            if counter in labelled:
                labelled[counter].add_metric([model, label], count)
            elif counter in plain:
                plain[counter].add_metric([model], count)
    return [*labelled.values(), *plain.values()]


def _buckets(
    counts: Mapping[str, int], name: str, bounds: Sequence[float], per_unit: int
) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets of a histogram, and its sum as stored."""
    total, buckets = 0, []
    for bound in bounds:
        total += counts.get(f"{name}:{bound}", 0)
        buckets.append((str(bound / per_unit), float(total)))
    buckets.append(("+Inf", float(total + counts.get(f"{name}:inf", 0))))
    return buckets, float(counts.get(f"{name}:sum", 0))
