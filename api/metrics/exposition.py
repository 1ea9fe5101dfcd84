"""Writes metrics in Prometheus' text format."""

from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class _StaticCollector(Collector):
    """Returns metrics that were read before."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def to_text(metrics: Sequence[Metric]) -> bytes:
    """Return metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_StaticCollector(metrics))
    return generate_latest(registry)
