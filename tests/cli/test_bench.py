"""`fireside bench serve` against a server that says what it is told to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fake_speech import FakeSpeech, serving_beside, tone
from typer.testing import CliRunner, Result

from fireside.cli.app import app


def bench(*words: object) -> Result:
    return CliRunner().invoke(app, ["bench", "serve", *map(str, words)])


def test_table_json_and_plot(tmp_path: Path):
    fake = FakeSpeech([(0.02, tone(0.05, silent=0.02)), (0.02, tone(0.1))])
    written, drawn = tmp_path / "run.json", tmp_path / "run.png"
    with serving_beside(fake) as url:
        result = bench("--url", url, "-c", "1,3", "-n", 6, "--json", written, "--plot", drawn, "--api-key", "geheim")
    assert result.exit_code == 0, result.stderr
    assert "1 at once" in result.stdout
    assert "3 at once" in result.stdout
    assert re.search(r"3 at once: \d+\.\d\d s of audio a second; \d+ underruns", result.stdout)
    assert drawn.read_bytes().startswith(b"\x89PNG")
    document = json.loads(written.read_text())
    assert "geheim" not in written.read_text() + result.output
    assert [level["load"] for level in document["levels"]] == [1, 3]
    assert len(fake.bodies) == 6 + 6 + 1 + 3  # a warm-up of one for each listener
    for level in document["levels"]:
        assert level["outcomes"] == {"ok": 6}
        assert level["audio_seconds"] == pytest.approx(0.9)
        assert level["audio_per_second"] == pytest.approx(0.9 / level["seconds"])
        first, heard = level["figures"]["ttfa"], level["figures"]["audible"]
        assert first["count"] == heard["count"] == len(level["each"]) == 6
        assert 0.02 <= first["minimum"] <= first["p50"] <= first["p95"] <= first["maximum"]
        assert heard["mean"] == pytest.approx(first["mean"] + 0.02)
    assert document["settings"]["buffer"] == 2.0
    assert "texts" in document["settings"]


def test_open_loop_and_texts_of_a_file(tmp_path: Path):
    texts = tmp_path / "texts.txt"
    texts.write_text("一\n\ntwo\n", encoding="utf-8")
    fake = FakeSpeech([(0, tone(0.05))])
    with serving_beside(fake) as url:
        result = bench("--url", url, "--rate", "50", "-n", 4, "-f", texts, "--warm-up", 0, "--fast", "--sse")
    assert result.exit_code == 0, result.stderr
    assert "50 a second" in result.stdout
    assert sorted(body["input"] for body in fake.bodies) == ["two", "two", "一", "一"]
    assert "queue 0.500" in result.stdout


def test_full_server_is_said(tmp_path: Path):
    with serving_beside(FakeSpeech(status=429, headers={"Retry-After": "0"})) as url:
        result = bench("--url", url, "-n", 1, "--warm-up", 0)
    assert result.exit_code == 8
    assert result.stderr == f"fireside: no request to {url} was answered with audio: busy, It is full.\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-c", "1,x"], "--concurrency 1,x: numbers above 0"),
        (["-c", "0"], "--concurrency 0"),
        (["--rate", "-1"], "--rate -1"),
        (["-c", "1", "--rate", "1"], "give one"),
        (["--url", "localhost:8000"], "begins with http://"),
        (["-f", "/nonexistent/texts"], "cannot be read"),
        (["--plot", "run.gif"], ".png"),
        (["--prebuffer", "5"], "--buffer"),
    ],
)
def test_usage(words: list[str], said: str):
    result = bench(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_nowhere_to_write():
    result = bench("--json", "/nonexistent/run.json")
    assert result.exit_code == 8
    assert "/nonexistent/run.json" in result.stderr


def test_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = bench()
    assert result.exit_code == 2
    assert "pip install 'fireside[bench]'" in result.stderr
