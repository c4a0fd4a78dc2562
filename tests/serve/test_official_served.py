"""A released model without voices of its own behind the same routes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import soundfile
import tiny
from harness import Running, running

from fireside.models.official import SPEAKERS_FILE


@pytest.fixture
def at(official_copy: Callable[[int], Path], home: Path) -> Iterator[Running]:
    model = official_copy(2)
    (model / SPEAKERS_FILE).unlink()
    with running(model) as server:
        yield server


def test_a_model_without_voices(at: Running) -> None:
    model = requests.get(f"{at.url}/v1/info", timeout=10).json()["model"]
    assert requests.get(f"{at.url}/v1/audio/voices", timeout=10).json()["data"] == []
    assert requests.get(f"{at.url}/api/speakers", timeout=10).json() == {"speakers": []}
    body = {"model": model, "input": "你好，欢迎。", "response_format": "pcm"}
    unnamed = requests.post(f"{at.url}/v1/audio/speech", json=body | {"voice": "default"}, timeout=10)
    assert unnamed.status_code == 404
    assert "recording" in unnamed.json()["error"]["message"]
    file = io.BytesIO()
    soundfile.write(file, tiny.recording(3.0), 24_000, format="WAV")
    prompt = {"prompt_audio": base64.b64encode(file.getvalue()).decode(), "prompt_text": "火已经点好了。"}
    spoken = requests.post(f"{at.url}/v1/audio/speech", json=body | prompt, timeout=30)
    assert spoken.status_code == 200, spoken.text
    form = {"name": "me", "consent": "my own voice"}
    files = {"audio_sample": file.getvalue()}
    added = requests.post(f"{at.url}/v1/audio/voices", data=form, files=files, timeout=30)
    assert added.status_code == 201, added.text
    assert [v["id"] for v in requests.get(f"{at.url}/v1/audio/voices", timeout=10).json()["data"]] == ["me"]
