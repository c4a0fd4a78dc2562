"""OpenAI's dialect, by the official client and over plain HTTP."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import soundfile
import tiny
from harness import Running, running
from openai import APIError, BadRequestError, NotFoundError, OpenAI, RateLimitError

JSON = {"Content-Type": "application/json"}
TEXT = "Good evening. The fire is lit, and there is tea."  # 48 characters, 4 chunks of 0.1 s


@pytest.fixture(scope="module")
def at(tiny_model: Path) -> Iterator[Running]:
    with running(tiny_model, aliases=("tts-1",), max_text=1000) as server:
        yield server


@pytest.fixture(scope="module")
def client(at: Running) -> OpenAI:
    return OpenAI(base_url=f"{at.url}/v1", api_key="none", max_retries=0)


def heard(data: bytes, name: str) -> tuple[np.ndarray, int]:
    if name == "pcm":
        return np.frombuffer(data, "<i2") / 32768.0, 24_000
    return soundfile.read(io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "media"),
    [
        ("mp3", "audio/mpeg"),
        ("opus", "audio/ogg"),
        ("flac", "audio/flac"),
        ("wav", "audio/wav"),
        ("pcm", "audio/pcm;rate=24000"),
    ],
)
def test_each_format_holds_the_tone(client: OpenAI, name: str, media: str) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tiny", voice="anna", input=TEXT, response_format=name
    ) as response:
        assert response.headers["content-type"] == media
        data = b"".join(response.iter_bytes())
    samples, rate = heard(data, name)
    # The encoders of mp3 and Opus put some silence before and after.
    assert 0.4 <= len(samples) / rate < 0.55
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) * rate / len(samples) == pytest.approx(440, abs=5)
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.05)


def test_the_simple_call_of_the_client(client: OpenAI, tmp_path: Path) -> None:
    client.audio.speech.create(
        model="tts-1", voice="anna", input=TEXT, instructions="speak slowly", speed=1.2
    ).write_to_file(tmp_path / "out.mp3")
    assert soundfile.info(tmp_path / "out.mp3").format == "MP3"


def test_audio_comes_while_it_is_made(at: Running) -> None:
    at.service.slow = 0.2
    body = {"model": "tiny", "voice": "anna", "input": "!slow " + TEXT, "response_format": "pcm"}
    with requests.post(f"{at.url}/v1/audio/speech", json=body, stream=True, timeout=10) as response:
        content = response.iter_content(None)
        first = next(content)
        assert at.service.active == 1, "the first audio is here, and the rest is still being made"
        rest = b"".join(content)
    assert len(first) == 4800
    assert len(rest) == 4 * 4800


def test_headers_tell_where_the_time_went(at: Running) -> None:
    body = {"model": "tiny", "voice": "anna", "input": TEXT, "seed": 7}
    headers = {"X-Request-Id": "mine.1"}
    response = requests.post(f"{at.url}/v1/audio/speech", json=body, headers=headers, timeout=10)
    assert response.headers["x-request-id"] == "mine.1"
    assert response.headers["x-seed"] == "7"
    assert response.headers["x-sample-rate"] == "24000"
    times = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
    assert {"queue", "front_end", "lm_prefill", "lm_decode", "flow", "vocoder", "encode", "write", "ttfa"} <= set(times)
    assert float(times["vocoder"]) == 5.0
    assert float(times["ttfa"]) > 0
    report = requests.get(f"{at.url}/v1/requests/mine.1", timeout=10).json()
    assert report["outcome"] == "done"
    assert report["seed"] == 7
    assert report["timings"]["audio_seconds"] == pytest.approx(0.4)
    assert report["timings"]["encode"] > 0
    assert report["timings"]["write"] > 0
    assert report["timings"]["rtf"] > 0


def test_whole_answers_have_their_length(at: Running) -> None:
    body = {"model": "tiny", "voice": "anna", "input": TEXT, "response_format": "wav", "stream": False}
    response = requests.post(f"{at.url}/v1/audio/speech", json=body, timeout=10)
    assert int(response.headers["content-length"]) == len(response.content) == 44 + 4 * 4800
    with soundfile.SoundFile(io.BytesIO(response.content)) as file:
        assert file.frames == 4 * 2400
    body["response_format"] = "flac"
    whole = requests.post(f"{at.url}/v1/audio/speech", json=body, timeout=10).content
    assert soundfile.info(io.BytesIO(whole)).frames == 4 * 2400


def events(response: requests.Response) -> list[dict]:
    found = []
    for block in response.content.decode().split("\n\n"):
        if block:
            kind, data = block.split("\n")
            event = json.loads(data.removeprefix("data: "))
            assert kind == f"event: {event['type']}"
            found.append(event)
    return found


def test_events(at: Running) -> None:
    body = {
        "model": "tiny",
        "voice": "anna",
        "input": TEXT,
        "response_format": "pcm",
        "stream_format": "sse",
        "seed": 3,
    }
    response = requests.post(f"{at.url}/v1/audio/speech", json=body, timeout=10)
    assert response.headers["content-type"].startswith("text/event-stream")
    *deltas, done = events(response)
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert sum(len(base64.b64decode(event["audio"])) for event in deltas) == 4 * 4800
    assert done["type"] == "speech.audio.done"
    assert done["usage"] == {"input_tokens": len(TEXT), "output_tokens": 20, "total_tokens": len(TEXT) + 20}
    assert done["fireside"]["seed"] == 3
    assert done["fireside"]["timings"]["encode"] >= 0
    assert done["fireside"]["timings"]["audio_seconds"] == pytest.approx(0.4)


def test_an_error_in_mid_stream_is_seen_by_the_client(at: Running) -> None:
    body = {"model": "tiny", "voice": "anna", "input": "!fail " + TEXT, "response_format": "pcm"}
    with requests.post(f"{at.url}/v1/audio/speech", json=body, stream=True, timeout=10) as response:
        assert response.status_code == 200
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            b"".join(response.iter_content(None))
    response = requests.post(f"{at.url}/v1/audio/speech", json=body | {"stream_format": "sse"}, timeout=10)
    *_, last = events(response)
    assert last == {
        "type": "error",
        "error": {"message": "The model failed on this text.", "type": "server_error", "param": None, "code": "engine"},
    }
    assert at.service.active == 0


def test_an_error_before_the_first_audio_has_its_status(at: Running, client: OpenAI) -> None:
    with pytest.raises(APIError) as caught:
        client.audio.speech.create(model="tiny", voice="anna", input="!refuse")
    assert caught.value.status_code == 500  # type: ignore[attr-defined]
    assert caught.value.code == "engine"


def test_what_is_ours_to_know_is_not_told(at: Running) -> None:
    body = {"model": "tiny", "voice": "anna", "input": "!boom " + TEXT, "stream_format": "sse"}
    response = requests.post(f"{at.url}/v1/audio/speech", json=body, timeout=10)
    assert "secret" not in response.text
    assert '"code": "internal"' in response.text


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"model": "nobody"}, NotFoundError, "no model 'nobody'"),
        ({"voice": "nobody"}, NotFoundError, "no voice 'nobody'"),
        ({"input": "  \n"}, BadRequestError, "empty"),
        ({"input": "a" * 1001}, BadRequestError, "1001 characters"),
        ({"response_format": "aac"}, BadRequestError, "aac cannot be made"),
        ({"response_format": "midi"}, BadRequestError, "response_format"),
        ({"speed": 0.3}, BadRequestError, "0.5 to 2"),
        ({"speed": 9}, BadRequestError, "speed"),
        ({"instructions": "sing it"}, BadRequestError, "cannot follow"),
        ({"extra_body": {"mood": "merry"}}, BadRequestError, "`mood` is not known"),
        ({"extra_body": {"seed": -1}}, BadRequestError, "seed"),
        ({"extra_body": {"prompt_audio": "AAAA"}}, BadRequestError, "not both"),
        ({"voice": None, "extra_body": {"prompt_audio": "?"}}, BadRequestError, "not base64"),
        ({"voice": None}, BadRequestError, "no voice"),
        ({"voice": ""}, BadRequestError, "`voice`"),
        ({"voice": ["anna"]}, BadRequestError, "`voice`"),
    ],
)
def test_bad_requests(client: OpenAI, change: dict, kind: type[APIError], words: str) -> None:
    arguments = {"model": "tiny", "voice": "anna", "input": TEXT} | change
    with pytest.raises(kind, match=words):
        client.audio.speech.create(**arguments)


def test_bodies_that_are_not_json(at: Running) -> None:
    for body in (b"{", b"", b"\xff\xfe", b"[" * 100_000, b'"text"', b"null"):
        response = requests.post(f"{at.url}/v1/audio/speech", data=body, headers=JSON, timeout=10)
        assert response.status_code == 400, body[:10]
        assert response.json()["error"]["message"].endswith("."), body[:10]


@pytest.mark.parametrize(("field", "status"), [("voice", 400), ("model", 404), ("instructions", 400), ("input", 200)])
def test_halves_of_characters(at: Running, field: str, status: int) -> None:
    body = {"model": "tiny", "voice": "anna", "input": TEXT} | {field: "\ud800"}
    response = requests.post(f"{at.url}/v1/audio/speech", data=json.dumps(body), headers=JSON, timeout=10)
    assert response.status_code == status


def test_a_recording_in_the_request_is_the_voice(at: Running, client: OpenAI) -> None:
    file = io.BytesIO()
    soundfile.write(file, tiny.recording(3.0), 24_000, format="WAV")
    recording = base64.b64encode(file.getvalue()).decode()
    made = client.audio.speech.create(
        model="tiny",
        voice=None,
        input=TEXT,
        response_format="pcm",
        extra_body={"prompt_audio": recording},  # type: ignore[arg-type]
    )
    assert len(made.content) == 4 * 4800


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "tts-1"]
    assert client.models.retrieve("tiny").owned_by == "fireside"
    with pytest.raises(NotFoundError):
        client.models.retrieve("nobody")


def test_a_full_server_says_when_to_come_again(at: Running, client: OpenAI) -> None:
    at.service.active = at.service.max_streams
    try:
        with pytest.raises(RateLimitError) as caught:
            client.audio.speech.create(model="tiny", voice="anna", input=TEXT)
    finally:
        at.service.active = 0
    assert caught.value.response.headers["retry-after"] == "3"
    assert caught.value.code == "busy"
