"""Keys, limits, origins, recordings that mean harm, clients that go away or read nothing."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
import soundfile
import tiny
from fake_service import FakeService
from harness import KEY, Running, running

from fireside.errors import AuthError, ConfigError
from fireside.serve.auth import Keys, bearer

TEXT = "Good evening. The fire is lit, and there is tea."
BODY = {"model": "tiny", "voice": "anna", "input": TEXT, "response_format": "pcm"}
OTHER = "another-key-that-is-long"


@pytest.fixture(scope="module")
def locked(tiny_model: Path) -> Iterator[Running]:
    with running(tiny_model, keys={"alice": KEY, "bob": OTHER}, streams_per_key=1) as server:
        yield server


@pytest.fixture(scope="module")
def at(tiny_model: Path) -> Iterator[Running]:
    with running(tiny_model, max_upload_bytes=2**20, max_upload_seconds=30, cors=("https://good.example",)) as server:
        yield server


def say(at: Running, key: str | None = None, **changes: object) -> requests.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return requests.post(f"{at.url}/v1/audio/speech", json=BODY | changes, headers=headers, timeout=20)


# Keys


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer ü"])
def test_without_the_right_key_nothing_is_said(locked: Running, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode()}
    for route in ("/v1/audio/speech", "/v1/models", "/metrics", "/nothing"):
        response = requests.get(f"{locked.url}{route}", headers=headers, timeout=10)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert "key" in response.json()["error"]["message"]


def test_keys_open(locked: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    assert say(locked, KEY).status_code == 200
    assert all(KEY not in str(vars(record)) for record in caplog.records if record.name.startswith("fireside"))
    until = time.monotonic() + 10  # it is logged when the last byte has gone out
    while "alice" not in {getattr(record, "client", "") for record in list(caplog.records)}:
        assert time.monotonic() < until
        time.sleep(0.01)
    for route in ("/health", "/ready", "/v1/info", "/openapi.json", "/"):
        assert requests.get(f"{locked.url}{route}", timeout=10).status_code == 200, route
    assert requests.get(f"{locked.url}/v1/info", timeout=10).json()["needs_key"] is True


def test_reports_are_their_keys_own(locked: Running) -> None:
    made = say(locked, KEY)
    where = f"{locked.url}/v1/requests/{made.headers['x-request-id']}"
    assert requests.get(where, headers={"Authorization": f"Bearer {KEY}"}, timeout=10).status_code == 200
    assert requests.get(where, headers={"Authorization": f"Bearer {OTHER}"}, timeout=10).status_code == 404


def test_streams_per_key(locked: Running) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    slow = BODY | {"input": "!slow " + TEXT}
    with requests.post(f"{locked.url}/v1/audio/speech", json=slow, headers=headers, stream=True, timeout=10) as first:
        assert first.status_code == 200
        second = say(locked, KEY)
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) >= 1
        assert say(locked, OTHER).status_code == 200, "another key is not held up"
        assert len(first.content) == 5 * 4800
    assert say(locked, KEY).status_code == 200


def test_key_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\nalice: {KEY}\n{OTHER}\n")
    keys = Keys.read(file)
    assert keys.needed
    assert keys.check(KEY).name == "alice"
    assert keys.check(OTHER).name == "key-4"
    with pytest.raises(AuthError, match="not known"):
        keys.check(KEY[:-1])
    with pytest.raises(AuthError, match="Bearer KEY"):
        keys.check(None)
    assert Keys({}).check(None).name == "anybody"


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no key"), ("short", "Line 1"), (f"a: {KEY}\nb: {KEY}", "Line 2"), (f"a: {KEY}\na: {OTHER}", "Line 2")],
)
def test_bad_key_files(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        Keys.read(file)
    assert KEY not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys.read(tmp_path / "none")


def test_bearer() -> None:
    assert bearer("bearer  abc ") == "abc"
    assert bearer("Basic abc") is None
    assert bearer("Bearer ") is None


# Origins


def test_pages_of_other_origins(at: Running) -> None:
    def ask(origin: str) -> requests.Response:
        return requests.post(f"{at.url}/v1/audio/speech", json=BODY, headers={"Origin": origin}, timeout=10)

    assert ask("https://evil.example").status_code == 403
    assert ask("null").status_code == 403
    assert ask(at.url).status_code == 200
    good = ask("https://good.example")
    assert good.headers["access-control-allow-origin"] == "https://good.example"
    assert "Server-Timing" in good.headers["access-control-expose-headers"]


def test_without_cors_no_origin_is_allowed(locked: Running) -> None:
    preflight = {"Origin": "https://good.example", "Access-Control-Request-Method": "POST"}
    response = requests.options(f"{locked.url}/v1/audio/speech", headers=preflight, timeout=10)
    assert "access-control-allow-origin" not in response.headers


# Recordings


def wav(samples: np.ndarray, rate: int = 24_000, name: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=name, subtype=subtype)
    return file.getvalue()


def zip_of_zeros() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", bytes(50 * 2**20))
    return file.getvalue()


def vorbis_with_a_rate(rate: int) -> bytes:
    """An Ogg Vorbis file whose header claims that rate, its page's checksum made right again."""
    data = bytearray(wav(np.zeros(48_000), 48_000, "OGG", "VORBIS"))
    at = data.index(b"\x01vorbis") + 12
    data[at : at + 4] = struct.pack("<I", rate)
    end = data.index(b"OggS", 4)
    data[22:26] = bytes(4)
    crc = 0
    for byte in data[:end]:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    data[22:26] = struct.pack("<I", crc)
    return bytes(data)


def flac_of_silence(seconds: int) -> bytes:
    """A file of some kilobytes for every hour."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 8000, 1, format="FLAC", subtype="PCM_16") as writer:
        for _ in range(seconds // 60):
            writer.write(np.zeros(8000 * 60, np.int16))
    return file.getvalue()


GOOD = wav(tiny.recording(3.0))
BAD: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "empty": (lambda: b"", 400, "empty"),
    "not audio": (lambda: b"RIFF" + os.urandom(2000), 400, "not audio"),
    "a zip": (zip_of_zeros, 400, "not audio"),
    "broken": (lambda: wav(tiny.recording(3.0), name="FLAC")[:3000] + bytes(60_000), 400, ""),
    "silent": (lambda: wav(np.zeros(72_000)), 400, "silent"),
    "short": (lambda: wav(tiny.recording(0.2)), 400, "at least"),
    "long, small when compressed": (lambda: flac_of_silence(60), 400, "longer than 30 s"),
    "hours, small when compressed": (lambda: flac_of_silence(2 * 3600), 400, "longer than 30 s"),
    "a rate beyond belief": (lambda: vorbis_with_a_rate(2**31 - 1), 400, "samples a second"),
    "too many bytes": (lambda: wav(np.random.default_rng(0).uniform(-1, 1, 24_000 * 25)), 413, "bytes"),
    "far too many bytes": (lambda: bytes(8 * 2**20), 413, "larger than this server takes"),
    "not numbers": (lambda: wav(np.full(72_000, np.nan), subtype="FLOAT"), 400, "not numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_recordings(at: Running, name: str) -> None:
    make, status, words = BAD[name]
    recording = make()
    process = psutil.Process()
    before = process.memory_info().rss
    response = requests.post(
        f"{at.url}/inference_cross_lingual",
        data={"tts_text": TEXT},
        files={"prompt_wav": ("p.wav", recording)},
        timeout=30,
    )
    assert response.status_code == status, response.text
    message = response.json()["error"]["message"]
    assert words in message
    assert message.endswith(".")
    assert process.memory_info().rss - before < 300 * 2**20
    encoded = base64.b64encode(recording).decode()
    inline = requests.post(
        f"{at.url}/v1/audio/speech", json=BODY | {"voice": None, "prompt_audio": encoded}, timeout=30
    )
    assert inline.status_code == status, inline.text


def test_a_good_recording_passes(at: Running) -> None:
    files = {"prompt_wav": ("p.wav", GOOD)}
    response = requests.post(f"{at.url}/inference_cross_lingual", data={"tts_text": TEXT}, files=files, timeout=30)
    assert response.status_code == 200, response.text


def test_compressed_bodies_are_not_unpacked(at: Running) -> None:
    body = zlib.compress(json.dumps(BODY).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "deflate"}
    assert requests.post(f"{at.url}/v1/audio/speech", data=body, headers=headers, timeout=10).status_code == 400


def test_a_body_without_a_length_is_stopped(at: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(2**17)

    headers = {"Content-Type": "application/json"}
    response = requests.post(f"{at.url}/v1/audio/speech", data=endless(), headers=headers, timeout=20)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "too_large"


def test_a_server_may_take_no_recordings(tiny_model: Path) -> None:
    with running(tiny_model, uploads=False) as closed:
        files = {"prompt_wav": ("p.wav", GOOD)}
        form = {"tts_text": TEXT}
        response = requests.post(f"{closed.url}/inference_cross_lingual", data=form, files=files, timeout=20)
        assert response.status_code == 400
        assert "takes no recordings" in response.json()["error"]["message"]


# Listeners


def request(**changes: object) -> bytes:
    """A request for speech as it is on the wire."""
    body = json.dumps(BODY | changes).encode()
    head = "POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_a_client_that_goes_away_is_forgotten_at_once(tiny_model: Path) -> None:
    service = FakeService(slow=0.3)
    with running(tiny_model, service) as at:
        body = BODY | {"input": "!slow " + 20 * TEXT}
        response = requests.post(f"{at.url}/v1/audio/speech", json=body, stream=True, timeout=10)
        content = response.iter_content(100)
        next(content)
        assert service.active == 1
        left = time.monotonic()
        response.close()
        while service.active and time.monotonic() - left < 5:
            time.sleep(0.005)
        assert service.freed[-1] - left < 0.2
        assert at.server.limits.streams == 0


def test_a_client_that_goes_away_before_the_first_audio(tiny_model: Path) -> None:
    service = FakeService(slow=30)
    with running(tiny_model, service) as at:
        with socket.create_connection(("127.0.0.1", int(at.url.rsplit(":", 1)[1]))) as client:
            client.sendall(request(input="!slow"))
            while not service.active:
                time.sleep(0.005)
        left = time.monotonic()
        while service.active and time.monotonic() - left < 5:
            time.sleep(0.005)
        assert service.freed[-1] - left < 0.2


def test_a_client_that_reads_nothing_is_dropped_and_holds_up_nobody(tiny_model: Path) -> None:
    service = FakeService(chunk_seconds=20.0)  # 1 MB each: more than the buffers between us
    with running(tiny_model, service, write_timeout=1.0) as at:
        before = psutil.Process().memory_info().rss
        with socket.create_connection(("127.0.0.1", int(at.url.rsplit(":", 1)[1]))) as lazy:
            lazy.sendall(request(input=20 * TEXT))
            while not service.active:
                time.sleep(0.005)
            begun = time.monotonic()
            others = [threading.Thread(target=lambda: say(at)) for _ in range(2)]
            for other in others:
                other.start()
            for other in others:
                other.join(5)
                assert not other.is_alive()
            while service.active and time.monotonic() - begun < 10:
                time.sleep(0.01)
            assert 0.5 < service.freed[-1] - begun < 5
            assert psutil.Process().memory_info().rss - before < 100 * 2**20
