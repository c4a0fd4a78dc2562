"""`fireside bench serve` against a server of ours: every dialect that runs on HTTP, and what the server says itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import running_for_real
from typer.testing import CliRunner

from fireside.cli.app import app

WAYS = [["--protocol", "openai"], ["--format", "wav"], ["--sse"], ["--protocol", "ws"]]


@pytest.fixture(scope="module")
def url(tiny_model: Path) -> Iterator[str]:
    """Where a real service speaks with the tiny model."""
    with running_for_real(tiny_model) as here:
        yield here.url


@pytest.mark.parametrize("way", WAYS, ids=["pcm", "wav", "sse", "ws"])
def test_our_own_server(url: str, tmp_path: Path, way: list[str]):
    written = tmp_path / "run.json"
    words = ["--model", "tiny", "-c", "2", "-n", "4", "--warm-up", "0", "--fast", "--json", str(written)]
    result = CliRunner().invoke(app, ["bench", "serve", "--url", url, *words, *way])
    assert result.exit_code == 0, result.stderr
    (level,) = json.loads(written.read_text())["levels"]
    assert level["outcomes"] == {"ok": 4}
    assert level["audio_seconds"] > 0
    assert {"queue", "front_end", "lm_decode", "flow", "vocoder", "ttfa"} <= level["server_medians"].keys()
    assert all(each["chunks"] > 1 and each["audible"] >= each["ttfa"] for each in level["each"])
