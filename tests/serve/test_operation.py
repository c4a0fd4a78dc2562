"""Health, metrics, logs, traces, the OpenAPI document."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from harness import Running, running
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from fireside.errors import ConfigError
from fireside.request import Timings
from fireside.serve.config import ServeConfig, read_config
from fireside.serve.logs import configure
from fireside.serve.traces import OtlpTracer, make_tracer

TEXT = "Good evening. The fire is lit, and there is tea."
BODY = {"model": "tiny", "voice": "anna", "input": TEXT}


@pytest.fixture
def at(tiny_model: Path) -> Iterator[Running]:
    with running(tiny_model) as server:
        yield server


def say(at: Running, **changes: object) -> requests.Response:
    return requests.post(f"{at.url}/v1/audio/speech", json=BODY | changes, timeout=20)


def measured(at: Running) -> dict[tuple[str, ...], float]:
    text = requests.get(f"{at.url}/metrics", timeout=10).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics(at: Running) -> None:
    assert say(at).status_code == 200
    assert say(at, voice="nobody").status_code == 404
    assert say(at, input="!refuse").status_code == 500
    assert say(at, input="!fail " + TEXT, stream_format="sse").status_code == 200
    found = measured(at)
    assert found["fireside_requests_total", "done", "openai"] == 1
    # An empty stream that fails at once has been admitted: it failed, it was not refused.
    assert found["fireside_requests_total", "failed", "openai"] == 2
    assert found["fireside_errors_total", "unknown_voice", "openai"] == 1
    assert found["fireside_errors_total", "engine", "openai"] == 2
    assert found["fireside_ttfa_seconds_count", "openai"] == 2
    assert found["fireside_audible_ttfa_seconds_count", "openai"] == 2
    assert found["fireside_first_audio_stage_seconds_count", "vocoder"] == 2
    assert found["fireside_first_audio_stage_seconds_sum", "vocoder"] == pytest.approx(0.01)
    assert found["fireside_rtf_count", "openai"] == 1
    assert found["fireside_chunk_slack_seconds_count", "openai"] == 3
    assert found["fireside_underruns_total", "openai"] == 0
    assert found["fireside_audio_seconds_total", "openai"] == pytest.approx(0.5)
    assert found["fireside_max_streams",] == 4
    assert found["fireside_active_streams",] == 0
    assert found["fireside_lm_rows_total",] == 20
    assert found["process_resident_memory_bytes",] > 0


def test_health_and_readiness(at: Running) -> None:
    assert requests.get(f"{at.url}/health", timeout=10).json() == {"status": "ok"}
    assert requests.get(f"{at.url}/ready", timeout=10).status_code == 200
    at.service.ready, at.service.draining = False, True
    draining = requests.get(f"{at.url}/ready", timeout=10)
    assert (draining.status_code, draining.json()) == (503, {"status": "draining"})
    assert requests.get(f"{at.url}/health", timeout=10).status_code == 200
    refused = say(at)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "2"


def test_unknown_routes_and_methods(at: Running) -> None:
    missing = requests.get(f"{at.url}/v2/audio", timeout=10)
    assert missing.status_code == 404
    assert "openapi.json" in missing.json()["error"]["message"]
    wrong = requests.get(f"{at.url}/v1/audio/speech", timeout=10)
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert wrong.json()["error"]["code"] == "method_not_allowed"


def test_the_document_names_every_route(at: Running) -> None:
    document = requests.get(f"{at.url}/openapi.json", timeout=10).json()
    assert {
        "/v1/audio/speech",
        "/v1/models",
        "/v1/audio/voices",
        "/inference_zero_shot",
        "/tts",
        "/api/speakers",
        "/metrics",
    } <= set(document["paths"])
    assert set(document["paths"]["/inference_sft"]) == {"get", "post"}
    speech = document["paths"]["/v1/audio/speech"]["post"]["responses"]
    assert "422" not in speech
    assert "audio/mpeg" in speech["200"]["content"]


@contextmanager
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.getLogger("uvicorn.error").filters.clear()
        logging.getLogger("fireside").setLevel(logging.NOTSET)


def test_log_lines_are_json_with_the_split(capsys: pytest.CaptureFixture[str]) -> None:
    with restored_logging():
        configure("json", "info")
        logging.getLogger("fireside.serve").info("speech", extra={"request_id": "r1", "queue": 0.25})
        logging.getLogger("fireside.serve").debug("not this")
        logging.getLogger("uvicorn.error").error("ASGI callable returned without completing response.")
        try:
            raise ValueError("inside")
        except ValueError:
            logging.getLogger("elsewhere").exception("failed")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "speech",
        "level": "info",
        "logger": "fireside.serve",
        "request_id": "r1",
        "queue": 0.25,
    }
    assert "ValueError: inside" in second["exception"]


def test_tracebacks_show_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    with restored_logging():
        configure("text", "info")
        secret = "a-key-" + "that-nobody-may-see"
        try:
            raise ValueError(len(secret))
        except ValueError:
            logging.getLogger("fireside.serve").exception("failed")
    shown = capsys.readouterr().err
    assert "ValueError: 25" in shown
    assert "that-nobody-may-see" not in shown


def test_every_request_is_logged_with_its_split(at: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fireside")
    say(at, seed=5)
    deadline = time.monotonic() + 10  # it is logged when the whole answer has left
    while not (lines := [vars(record) for record in caplog.records if record.message == "speech"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (line,) = lines
    assert line["outcome"] == "done"
    assert line["seed"] == 5
    assert line["vocoder"] == 0.005
    assert line["first_audio"]["queue"] == 0.001
    assert TEXT not in str(line)


def test_spans_of_a_request() -> None:
    exporter = InMemorySpanExporter()
    tracer = OtlpTracer(exporter, "1")
    timings = Timings(queue=0.1, flow=0.2, elapsed=1.0, ttfa=0.3)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    tracer.ended(parent, {"outcome": "done"}, timings, Timings(queue=0.1, flow=0.2, elapsed=0.3, ttfa=0.3))
    tracer.close()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    speech = spans["speech"]
    assert speech.context.trace_id == int("0af7651916cd43dd8448eb211c80319c", 16)
    assert speech.attributes == {"fireside.outcome": "done"}
    assert speech.end_time - speech.start_time == pytest.approx(1e9, rel=1e-6)
    flow = spans["first audio: flow"]
    assert flow.end_time - flow.start_time == pytest.approx(0.2e9, rel=1e-6)
    assert flow.parent.span_id == speech.context.span_id
    assert speech.events[0].timestamp - speech.start_time == pytest.approx(0.3e9, rel=1e-6)
    make_tracer(None, "1").ended(parent, {}, timings, None)


def test_settings_come_from_a_file_and_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("port: 9000\nmax_text: 500\ncors: [https://a.example]\n")
    config = read_config(file, {"port": 0})
    assert (config.port, config.max_text, config.cors) == (0, 500, ("https://a.example",))
    assert read_config(None, {}) == ServeConfig()


@pytest.mark.parametrize(
    ("text", "words"),
    [("ports: 1", "ports: unknown key"), ("port: 70000", "port"), ("- 1", "no settings"), ("a: [", "cannot be read")],
)
def test_bad_settings(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_config(file, {})
