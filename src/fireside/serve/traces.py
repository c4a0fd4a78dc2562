"""OpenTelemetry spans of requests, where an endpoint is configured (extra `otel`)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from fireside.errors import ConfigError

if TYPE_CHECKING:
    from fireside.request import Timings

_NANO = 1_000_000_000
_PATIENCE = 3  # seconds for a collector that does not answer, which the end of the server waits for


class Tracer(Protocol):
    """Takes what became of each request."""

    def ended(
        self, traceparent: str | None, facts: dict[str, str | int | float], timings: Timings, first: Timings | None
    ) -> None:
        """A request is over, just now. traceparent: W3C's header, if the client sent one."""

    def close(self) -> None:
        """Send what has not been sent."""


class NoTracer:
    """Keeps nothing."""

    def ended(
        self, traceparent: str | None, facts: dict[str, str | int | float], timings: Timings, first: Timings | None
    ) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class OtlpTracer:
    """Sends a span `speech` for each request, with a child for every stage of its first-audio time.

    exporter: an OpenTelemetry SpanExporter; its sending runs in a thread of the SDK's.
    """

    def __init__(self, exporter: Any, version: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.name": "fireside", "service.version": version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("fireside.serve", version)

    def ended(
        self, traceparent: str | None, facts: dict[str, str | int | float], timings: Timings, first: Timings | None
    ) -> None:
        """Make the spans of a request that has just ended, backwards from now."""
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        now = time.time_ns()
        begun = now - round(timings.elapsed * _NANO)
        parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent} if traceparent else {})
        attributes = {f"fireside.{name}": value for name, value in facts.items()}
        span = self._tracer.start_span("speech", parent, start_time=begun, attributes=attributes)
        if first is not None:
            inside, at = set_span_in_context(span), begun
            # The stages of the first audio in the order of the pipeline; where they take turns, their sums.
            for stage, seconds in first.split.items():
                child = self._tracer.start_span(f"first audio: {stage}", inside, start_time=at)
                at += round(seconds * _NANO)
                child.end(at)
            span.add_event("first audio", timestamp=begun + round(first.ttfa * _NANO))
        span.end(now)

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


def make_tracer(endpoint: str | None, version: str) -> Tracer:
    """A tracer that sends to an OTLP endpoint over HTTP; one that keeps nothing without an endpoint.

    Raises ConfigError when OpenTelemetry is not installed.
    """
    if endpoint is None:
        return NoTracer()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError("Traces need OpenTelemetry: pip install 'fireside[otel]', or leave them out.") from error
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_PATIENCE)
    return OtlpTracer(exporter, version)
