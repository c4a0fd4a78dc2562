"""A server with a real engine behind it, on the tiny model, and the program itself: start, serve, stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from harness import Running, running_for_real
from openai import OpenAI

from fireside.audio.io import to_int16
from fireside.errors import EngineError, UsageError
from fireside.serve.config import ServeConfig
from fireside.serve.run import run
from fireside.tts import load

TEXTS = [
    "Good evening. The fire is lit, and there is tea.",
    "We read by the light of the stove.",
    "你好，欢迎来到这里。",
    "It is late, and the wood is wet.",
]


@pytest.fixture(scope="module")
def at(tiny_model: Path) -> Iterator[Running]:
    with running_for_real(tiny_model, max_streams=4, result_cache="memory:16MB") as server:
        yield server


def say(at: Running, text: str, **more: object) -> requests.Response:
    body = {"model": "tiny", "voice": "anna", "input": text, "response_format": "pcm"} | more
    return requests.post(f"{at.url}/v1/audio/speech", json=body, timeout=60)


def test_many_at_once_hear_what_each_would_alone(at: Running, tiny_model: Path) -> None:
    tts = load(tiny_model)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda pair: say(at, pair[1], seed=pair[0]), enumerate(TEXTS)))
    for seed, (text, answer) in enumerate(zip(TEXTS, answers, strict=True)):
        assert answer.status_code == 200, answer.text
        alone = to_int16(np.concatenate([c.samples for c in tts.stream(text, "anna", seed=seed)]))
        heard = np.frombuffer(answer.content, "<i2")
        assert len(heard) == len(alone)
        assert np.abs(heard.astype(int) - alone).max() <= 2


def test_the_same_words_again_come_from_the_cache(at: Running) -> None:
    first, second = (say(at, "The kettle sings.") for _ in range(2))
    assert first.content == second.content
    where = [f"{at.url}/v1/requests/{answer.headers['x-request-id']}" for answer in (first, second)]
    reports = [requests.get(each, timeout=10).json() for each in where]
    assert [report["cached"] for report in reports] == [False, True]
    assert reports[0]["timings"]["flow"] > 0


def test_text_that_cannot_be_spoken(at: Running) -> None:
    answer = say(at, "日本語のテキスト")
    assert answer.status_code == 400
    assert "kana" in answer.json()["error"]["message"]


def test_a_model_error_ends_its_own_stream_only(at: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 13 brings bad luck: an error of the model's after the first chunk."""
    engine = at.server.tts.engine
    whole_step = engine.advance

    def step() -> bool:
        for key, record in engine._requests.items():
            if record.request.seed == 13 and record.chunks:
                engine.fail(key, EngineError("The model failed on this text."))
        return whole_step()

    def listen(seed: int) -> bytes:
        return say(at, " ".join(TEXTS), seed=seed).content

    alone = listen(12)
    monkeypatch.setattr(engine, "advance", step)
    with ThreadPoolExecutor(2) as pool:
        good, bad = (pool.submit(listen, seed) for seed in (14, 13))
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            bad.result()
        heard = good.result()
    assert len(heard) > 24_000
    assert listen(12) == alone, "and the server goes on as before"
    assert at.server.service.statistics().active == 0


# The program


def start(*options: str) -> tuple[subprocess.Popen[str], str]:
    """A `fireside serve` process and its address."""
    command = [sys.executable, "-m", "fireside", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+", line)
    if address is None:
        process.kill()
        pytest.fail(line + process.stderr.read())
    threading.Thread(target=process.stderr.read, daemon=True).start()
    return process, address[0]


def test_sigterm_lets_eight_streams_finish(tiny_model: Path) -> None:
    process, url = start("--model", str(tiny_model), "--max-streams", "8", "--log-format", "json")
    begun = threading.Barrier(9, timeout=60)

    def listen(seed: int) -> int:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        with client.audio.speech.with_streaming_response.create(
            model="tiny", voice="anna", input=" ".join(TEXTS[:2]), response_format="pcm", extra_body={"seed": seed}
        ) as response:
            pieces = response.iter_bytes()
            first = next(pieces)
            begun.wait()
            return len(first) + sum(map(len, pieces))

    try:
        with ThreadPoolExecutor(8) as pool:
            streams = [pool.submit(listen, seed) for seed in range(8)]
            begun.wait()
            process.send_signal(signal.SIGTERM)
            lengths = [stream.result(60) for stream in streams]
        assert process.wait(20) == 0
    finally:
        process.kill()
    tts = load(tiny_model)
    assert lengths[3] == 2 * sum(len(c.samples) for c in tts.stream(" ".join(TEXTS[:2]), "anna", seed=3))
    assert min(lengths) > 12_000


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"Port {port} on 127.0.0.1 is in use") as caught:
            run(ServeConfig(port=port), print)
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="no address"):
        run(ServeConfig(host="no.such.host.invalid", port=0), print)


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['fireside', 'serve']; "
        "from fireside.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=60)
    assert done.returncode == 2
    assert done.stderr.strip() == "fireside: The server is not installed: pip install 'fireside[serve]'"
