"""The original's routes and the fork's, as their own clients call them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import soundfile
import tiny
from harness import Running, running

TEXT = "Good evening. The fire is lit, and there is tea."


@pytest.fixture(scope="module")
def at(tiny_model: Path) -> Iterator[Running]:
    with running(tiny_model) as server:
        yield server


@pytest.fixture(scope="module")
def recording() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tiny.recording(3.0), 24_000, format="WAV")
    return file.getvalue()


def ask(at: Running, method: str, route: str, form: dict[str, str], prompt: bytes | None = None) -> requests.Response:
    """As the original's client.py: the form in the body, of a GET too."""
    files = None if prompt is None else [("prompt_wav", ("prompt_wav", prompt, "application/octet-stream"))]
    return requests.request(method, f"{at.url}{route}", data=form, files=files, stream=True, timeout=30)


def heard(response: requests.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    assert response.headers["x-sample-rate"] == "24000"
    samples = np.frombuffer(b"".join(response.iter_content(16_000)), "<i2") / 32768.0
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.01)
    return samples


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_sft(at: Running, method: str) -> None:
    response = ask(at, method, "/inference_sft", {"tts_text": TEXT, "spk_id": "bo"})
    assert len(heard(response)) == 4 * 2400
    report = requests.get(f"{at.url}/v1/requests/{response.headers['x-request-id']}", timeout=10).json()
    assert (report["voice"], report["protocol"]) == ("bo", "cosyvoice")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("route", "form"),
    [
        ("/inference_zero_shot", {"prompt_text": "What is said."}),
        ("/inference_cross_lingual", {}),
        ("/inference_instruct2", {"instruct_text": "speak slowly"}),
    ],
)
def test_with_a_recording(at: Running, method: str, route: str, form: dict[str, str], recording: bytes) -> None:
    assert len(heard(ask(at, method, route, {"tts_text": TEXT, **form}, recording))) == 4 * 2400


def test_instruct(at: Running) -> None:
    form = {"tts_text": TEXT, "spk_id": "anna", "instruct_text": "speak slowly"}
    assert len(heard(ask(at, "POST", "/inference_instruct", form))) == 4 * 2400


@pytest.mark.parametrize(
    ("route", "form", "status", "words"),
    [
        ("/inference_sft", {"tts_text": TEXT, "spk_id": "nobody"}, 404, "no voice 'nobody'"),
        ("/inference_sft", {"tts_text": " ", "spk_id": "anna"}, 400, "empty"),
        ("/inference_sft", {"spk_id": "anna"}, 400, "`tts_text` is missing"),
        ("/inference_sft", {"tts_text": TEXT, "spk_id": "anna", "speed": "x"}, 400, "speed"),
        ("/inference_zero_shot", {"tts_text": TEXT, "prompt_text": "x"}, 400, "`prompt_wav` is missing"),
        ("/inference_instruct", {"tts_text": TEXT, "spk_id": "anna", "instruct_text": "sing"}, 400, "cannot follow"),
    ],
)
def test_bad_forms(at: Running, route: str, form: dict[str, str], status: int, words: str) -> None:
    response = ask(at, "POST", route, form)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]


def test_a_file_where_a_string_is_due_and_the_reverse(at: Running, recording: bytes) -> None:
    files = {"tts_text": ("a.wav", recording), "spk_id": ("b.wav", recording)}
    assert requests.post(f"{at.url}/inference_sft", files=files, timeout=10).status_code == 400
    form = {"tts_text": TEXT, "prompt_wav": "../../etc/passwd"}
    response = requests.post(f"{at.url}/inference_cross_lingual", data=form, timeout=10)
    assert response.status_code == 400


def test_the_fork(at: Running) -> None:
    assert requests.get(f"{at.url}/api/speakers", timeout=10).json() == {"speakers": ["anna", "bo"]}
    assert len(heard(requests.post(f"{at.url}/tts", data={"text": TEXT, "speaker": "bo"}, timeout=10))) == 9600
    first = requests.post(f"{at.url}/tts", data={"text": TEXT, "speaker": ""}, timeout=10)
    report = requests.get(f"{at.url}/v1/requests/{first.headers['x-request-id']}", timeout=10).json()
    assert (report["voice"], report["protocol"]) == ("anna", "fork")


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"text": " "}, 400, "empty"),
        ({}, 400, "`text` is missing"),
        ({"text": TEXT, "speaker": "nobody"}, 400, "no voice"),
        ({"text": "!refuse"}, 500, "failed"),
    ],
)
def test_the_forks_errors(at: Running, form: dict[str, str], status: int, words: str) -> None:
    response = requests.post(f"{at.url}/tts", data=form, timeout=10)
    assert response.status_code == status
    assert words in response.json()["error"]
