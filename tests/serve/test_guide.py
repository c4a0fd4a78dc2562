"""What docs/serving.md shows is done as it is written, against a running server with a tiny model."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from harness import Running, running_for_real

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDES = ("serving.md", "serving.zh.md")


@pytest.fixture(scope="module")
def at(tiny_model: Path) -> Iterator[Running]:
    with running_for_real(tiny_model, max_streams=2, aliases=("hearth",)) as server:
        yield server


@pytest.fixture
def here(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the recording that the guide speaks of."""
    seconds = np.arange(3 * 16000) / 16000
    wave = 0.3 * np.sin(2 * np.pi * 150 * seconds + 2 * np.sin(2 * np.pi * 3 * seconds))
    soundfile.write(tmp_path / "me.wav", wave * np.abs(np.sin(2 * np.pi * seconds)), 16000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(guide: str, language: str, at: Running) -> list[str]:
    """The guide's examples, with the address and the voice that there are here."""
    text = (DOCS / guide).read_text(encoding="utf-8").replace("127.0.0.1:8000", at.url.removeprefix("http://"))
    text = text.replace("af_heart", "anna").replace("zf_xiaoxiao", "anna")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("guide", GUIDES)
def test_python_of_the_guide_runs(guide: str, at: Running, here: Path) -> None:
    openai, websocket, cosyvoice = blocks(guide, "python", at)
    exec(compile(openai, "openai", "exec"), {"__name__": "guide"})
    assert soundfile.info(here / "hello.mp3").duration > 0.2
    exec(compile(websocket, "websocket", "exec"), {"__name__": "guide"})
    assert (here / "hello.pcm").stat().st_size > 10_000
    names: dict[str, bytes] = {"__name__": "guide"}  # type: ignore[dict-item]
    exec(compile(cosyvoice, "cosyvoice", "exec"), names)
    assert len(names["pcm"]) > 4_000


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("guide", GUIDES)
def test_curl_of_the_guide_works(guide: str, at: Running, here: Path) -> None:
    found = [block for block in blocks(guide, "sh", at) if block.startswith("curl")]
    assert len(found) == 2
    for block in found:
        script = block.replace("curl ", "curl --silent --show-error --fail-with-body ")
        done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    assert soundfile.read(here / "hello.wav")[1] == 24_000
    assert soundfile.info(here / "me.mp3").duration > 0.2
    assert '"deleted":true' in done.stdout
