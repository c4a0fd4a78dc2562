"""Voices over HTTP: added with consent, listed, shown, heard, deleted."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import soundfile
import tiny
from harness import Running, running


@pytest.fixture
def at(tiny_model: Path, home: Path) -> Iterator[Running]:
    with running(tiny_model) as server:
        yield server


@pytest.fixture(scope="module")
def recording() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tiny.recording(3.0), 24_000, format="FLAC")
    return file.getvalue()


def add(at: Running, recording: bytes, **form: str) -> requests.Response:
    fields = {"name": "me", "consent": "my own voice", "language": "en", "description": "a test"} | form
    files = {"audio_sample": ("../../me.flac", recording)}
    return requests.post(f"{at.url}/v1/audio/voices", data=fields, files=files, timeout=30)


def test_the_life_of_a_voice(at: Running, recording: bytes, home: Path) -> None:
    added = add(at, recording)
    assert added.status_code == 201, added.text
    assert (added.json()["consent"], added.json()["bundled"]) == ("my own voice", False)
    assert sorted(file.name for file in (home / "voices").iterdir()) == ["me.json", "me.safetensors"]

    voices = {voice["id"]: voice for voice in requests.get(f"{at.url}/v1/audio/voices", timeout=10).json()["data"]}
    assert list(voices) == ["anna", "bo", "me"]
    assert [name for name, voice in voices.items() if voice["default"]] == ["anna"]
    shown = requests.get(f"{at.url}/v1/audio/voices/me", timeout=10).json()
    assert shown["prompt_seconds"] == pytest.approx(3.0, abs=0.3)
    assert shown["description"] == "a test"

    heard = requests.get(f"{at.url}/v1/audio/voices/me/preview?response_format=wav", timeout=10)
    assert np.abs(soundfile.read(io.BytesIO(heard.content))[0]).max() == pytest.approx(0.3, abs=0.01)

    assert add(at, recording).status_code == 409
    assert add(at, recording, name="anna").status_code == 409
    assert requests.delete(f"{at.url}/v1/audio/voices/me", timeout=10).json() == {
        "id": "me",
        "object": "voice",
        "deleted": True,
    }
    assert list((home / "voices").iterdir()) == []
    assert requests.delete(f"{at.url}/v1/audio/voices/me", timeout=10).status_code == 404
    assert requests.delete(f"{at.url}/v1/audio/voices/anna", timeout=10).status_code == 409


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"consent": " "}, 400, "who allowed"),
        ({"name": "../me"}, 400, "cannot be a voice's name"),
        ({"name": "a/b"}, 400, "cannot be a voice's name"),
        ({"name": ""}, 400, "`name` is missing"),
        ({"name": "default"}, 400, "default"),
        ({"prompt_text": "日本語のテキスト"}, 400, "kana"),
    ],
)
def test_voices_that_are_refused(
    at: Running, recording: bytes, home: Path, form: dict[str, str], status: int, words: str
) -> None:
    response = add(at, recording, **form)
    assert response.status_code == status, response.text
    assert words in response.json()["error"]["message"]
    assert not (home / "voices").exists()


def test_consent_must_be_given(at: Running, recording: bytes) -> None:
    response = requests.post(
        f"{at.url}/v1/audio/voices", data={"name": "me"}, files={"audio_sample": recording}, timeout=10
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "consent"


@pytest.mark.parametrize("name", ["..%2F..%2Fetc", "nobody", "%00", "default%2e", "a" * 500])
def test_no_voice_is_found_outside_the_folder(at: Running, name: str) -> None:
    for route in (f"/v1/audio/voices/{name}", f"/v1/audio/voices/{name}/preview"):
        assert requests.get(f"{at.url}{route}", timeout=10).status_code == 404


def test_a_full_disk(at: Running, recording: bytes, home: Path) -> None:
    """A disk that takes no more, by a limit on the size of files, which fails as a full one does."""
    import resource
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        response = add(at, recording)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert response.status_code == 507, response.text
    assert "cannot be written" in response.json()["error"]["message"]
    assert os.listdir(home / "voices") == []
    assert requests.get(f"{at.url}/v1/audio/voices/me", timeout=10).status_code == 404
