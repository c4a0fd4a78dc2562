"""What Prometheus sees of a server. One registry a server; nothing is labelled by voice, text or key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from fireside.engine.service import Service
    from fireside.engine.stream import Report
    from fireside.request import Timings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STAGES = ("queue", "front_end", "lm_prefill", "lm_decode", "flow", "vocoder", "waiting", "encode", "write")

_LATENCY = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_STAGE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_RTF = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0, 4.0)
_SLACK = (-5.0, -2.0, -1.0, -0.5, -0.2, -0.1, 0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class _ServiceCollector(Collector):
    """Figures that the service counts itself, read when Prometheus asks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        now = self._service.statistics()
        for name, help_text, value in (
            ("queue_depth", "Requests waiting for a stream.", now.queued),
            ("active_streams", "Requests being spoken.", now.active),
            ("held_streams", "Streams that pause for a slow listener.", now.held),
            ("max_streams", "Requests that are spoken at once at most.", now.max_streams),
            ("stream_memory_bytes", "Memory of the streams' states.", now.memory_bytes),
            ("stream_memory_limit_bytes", "Memory that admission allows the streams' states.", now.memory_limit),
            ("measured_rtf", "RTF of one stream as measured at the start.", now.measured_rtf),
            ("draining", "1 while the server finishes its last streams.", int(now.draining)),
        ):
            yield GaugeMetricFamily(f"fireside_{name}", help_text, value=value)
        yield CounterMetricFamily("fireside_busy_seconds", "Time that the engine worked.", value=now.busy_seconds)
        yield CounterMetricFamily("fireside_lm_steps", "Steps of the LM.", value=now.steps)
        yield CounterMetricFamily("fireside_lm_rows", "Rows in the steps of the LM.", value=now.rows)
        hits = CounterMetricFamily("fireside_cache_hits", "Found in a cache.", labels=["cache"])
        misses = CounterMetricFamily("fireside_cache_misses", "Not found in a cache.", labels=["cache"])
        size = GaugeMetricFamily("fireside_cache_bytes", "Bytes in a cache.", labels=["cache"])
        for name, use in now.caches.items():
            hits.add_metric([name], use.hits)
            misses.add_metric([name], use.misses)
            size.add_metric([name], use.nbytes)
        yield from (hits, misses, size)


class Metrics:
    """Counters and histograms of requests, by protocol: openai, cosyvoice, fork, websocket, grpc, http."""

    def __init__(self, service: Service, version: str, model: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_ServiceCollector(service))
        about = Gauge("fireside_info", "What runs here.", ["version", "model"], registry=registry)
        about.labels(version, model).set(1)
        by_protocol = ["protocol"]
        self._requests = Counter(
            "fireside_requests", "Requests for speech by how they ended.", ["protocol", "outcome"], registry=registry
        )
        self._errors = Counter(
            "fireside_errors", "Errors that clients were told.", ["protocol", "kind"], registry=registry
        )
        self._ttfa = Histogram(
            "fireside_ttfa_seconds", "Time to the first audio.", by_protocol, buckets=_LATENCY, registry=registry
        )
        self._audible = Histogram(
            "fireside_audible_ttfa_seconds",
            "Time to the first audible sample, as a listener hears it.",
            by_protocol,
            buckets=_LATENCY,
            registry=registry,
        )
        self._stages = Histogram(
            "fireside_first_audio_stage_seconds",
            "The first-audio time by where it went.",
            ["stage"],
            buckets=_STAGE,
            registry=registry,
        )
        self._rtf = Histogram(
            "fireside_rtf", "Processing time over audio time.", by_protocol, buckets=_RTF, registry=registry
        )
        self._slack = Histogram(
            "fireside_chunk_slack_seconds",
            "Audio a listener still had when the next chunk came; below 0 it had run dry.",
            by_protocol,
            buckets=_SLACK,
            registry=registry,
        )
        self._underruns = Counter(
            "fireside_underruns", "Times that a listener ran dry.", by_protocol, registry=registry
        )
        self._audio = Counter("fireside_audio_seconds", "Seconds of audio made.", by_protocol, registry=registry)

    def told(self, protocol: str, code: str) -> None:
        """An error was told to a client."""
        self._errors.labels(protocol, code).inc()

    def ended(self, protocol: str, outcome: str, report: Report, timings: Timings, first: Timings | None) -> None:
        """A request for speech is over. timings: of all of it; first: of its first audio, if it had any."""
        self._requests.labels(protocol, outcome).inc()
        if first is not None:
            self._ttfa.labels(protocol).observe(first.ttfa)
            if timings.audible_ttfa:
                self._audible.labels(protocol).observe(timings.audible_ttfa)
            for stage in STAGES:
                self._stages.labels(stage).observe(first.split[stage])
        for slack in report.slacks:
            self._slack.labels(protocol).observe(slack)
        self._underruns.labels(protocol).inc(report.underruns)
        self._audio.labels(protocol).inc(timings.audio_seconds)
        if outcome == "done" and timings.audio_seconds and not report.cached:
            self._rtf.labels(protocol).observe(timings.rtf)

    def render(self) -> bytes:
        """Everything, in Prometheus's text format (CONTENT_TYPE)."""
        return generate_latest(self.registry)
