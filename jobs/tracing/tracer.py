"""Records spans with OpenTelemetry, if its standard OTEL_ variables say where they go; otherwise imports nothing.

A span is named by its `traceparent` (W3C Trace Context), which is kept on jobs: so its children may be recorded by
another process. Spans are recorded once they have ended, in the past, and are exported by a thread.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final, Literal, NamedTuple

log = logging.getLogger("jitney.tracing")

Kind = Literal["internal", "server", "client"]
Attributes = Mapping[str, str | int | float | bool]
FLUSH_S: Final = 1.0  # at the end of a process, for spans that are not exported yet
_WHERE: Final = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Span(NamedTuple):
    """A span that has begun. `traceparent`: names it as a parent; "" if it is not recorded and has no parent."""

    traceparent: str
    span: Any


class Tracer:
    """Records the spans of one process. Times in ns since the epoch."""

    def __init__(self, part: str, instance: str, exporter: Any) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 (only where spans are exported)
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        has_name = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        )
        attributes = {"service.instance.id": instance, **({} if has_name else {"service.name": f"jitney-{part}"})}
        self._provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
        self._processor = BatchSpanProcessor(exporter)
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("jitney")

    def begin(self, name: str, parent: str, kind: Kind = "internal", start_ns: int | None = None) -> Span:
        """Begin a span. `parent`: its traceparent; "" starts a trace."""
        return self._begin(name, parent, kind, start_ns, ())

    def end(self, begun: Span, attributes: Attributes, *, failed: str = "", end_ns: int | None = None) -> None:
        """End a span. `failed`: a description of its error."""
        begun.span.set_attributes(dict(attributes))
        if failed:
            from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

            begun.span.set_status(Status(StatusCode.ERROR, failed))
        begun.span.end(end_ns)

    def record(
        self,
        name: str,
        parent: str,
        times_ns: tuple[int, int],
        attributes: Attributes,
        links: Sequence[str] = (),
    ) -> str:
        """Record a span that has ended; return its traceparent. `links`: the traceparents of spans it belongs to."""
        begun = self._begin(name, parent, "internal", times_ns[0], links)
        self.end(begun, attributes, end_ns=times_ns[1])
        return begun.traceparent

    def close(self) -> None:
        """Export what is left, for at most FLUSH_S seconds: the collector may be away."""
        thread = threading.Thread(target=self._processor.force_flush, daemon=True)
        thread.start()
        thread.join(FLUSH_S)

    def _begin(self, name: str, parent: str, kind: Kind, start_ns: int | None, links: Sequence[str]) -> Span:
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.context import Context  # noqa: PLC0415

        context = Context()
        if parent:
            context = trace.set_span_in_context(trace.NonRecordingSpan(_span_context(parent)), context)
        span = self._tracer.start_span(
            name,
            context=context,
            kind=trace.SpanKind[kind.upper()],
            links=[trace.Link(_span_context(link)) for link in links],
            start_time=start_ns,
        )
        own = span.get_span_context()
        if not (own.trace_flags.sampled or parent):
            return Span("", span)
        return Span(f"00-{own.trace_id:032x}-{own.span_id:016x}-{int(own.trace_flags):02x}", span)


def _span_context(traceparent: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415

    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def open_tracer(part: str, instance: str) -> Tracer | None:
    """Return the tracer of this process, or None if the OTEL_ variables do not say where spans go.

    `part`: the kind of process; `instance`: its id. OTEL_TRACES_EXPORTER is `otlp` (the default, over HTTP), `console`
    or `none`. Warns if OpenTelemetry is not installed.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none"
    if is_off or not any(os.environ.get(name) for name in _WHERE):
        return None
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        log.warning('OTEL_ variables are set, but OpenTelemetry is not installed: pip install -e ".[otel]"')
        return None
    if exporter == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

        return Tracer(part, instance, ConsoleSpanExporter())
    if exporter != "otlp":
        log.warning("OTEL_TRACES_EXPORTER=%s is not supported: use otlp, console or none", exporter[:50])
        return None
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    if protocol not in ("", "http/protobuf"):
        log.warning("OTEL_EXPORTER_OTLP_PROTOCOL=%s is not supported: http/protobuf is used", protocol[:50])
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return Tracer(part, instance, OTLPSpanExporter())


class Clock:
    """Converts times of the monotonic clock, as it is now, to ns since the epoch."""

    def __init__(self) -> None:
        self.now_ns, self._now_s = time.time_ns(), time.monotonic()

    def ns(self, monotonic_s: float) -> int:
        return self.now_ns - int((self._now_s - monotonic_s) * 1e9)
