"""Reads what a receiver got as an OpenTelemetry collector, by OTLP over HTTP."""

import gzip
from collections.abc import Mapping
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.receiver import Receiver


class Span(NamedTuple):
    """A span. Ids in hex; `links`: the ids of linked spans; times in ns."""

    name: str
    service: str
    trace: str
    id: str
    parent: str
    links: list[str]
    begin: int
    end: int
    attributes: Mapping[str, Any]
    is_error: bool


def spans(receiver: Receiver) -> list[Span]:
    """Return all spans that were exported so far."""
    found: list[Span] = []
    for request in [each for each in receiver.got if each.path == "/v1/traces"]:
        body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _values(resource.resource.attributes)["service.name"]
            found += [_span(span, service) for scope in resource.scope_spans for span in scope.spans]
    return found


def _span(span: Any, service: str) -> Span:
    return Span(
        span.name,
        service,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        [link.span_id.hex() for link in span.links],
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        span.status.code == 2,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
