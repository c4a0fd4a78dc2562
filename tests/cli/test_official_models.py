"""The commands on tiny official models, and what they say to those who ask for what a model lacks."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
from typer.testing import CliRunner, Result

from fireside.cli.app import app


@pytest.fixture
def run(official_model: Callable[[int], Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a command on the tiny model of a version."""
    monkeypatch.chdir(tmp_path)

    def call(version: int, *args: object, input: str | bytes | None = None, code: int = 0) -> Result:
        words = [*map(str, args), "--model", str(official_model(version))]
        result = CliRunner().invoke(app, words, input=input)
        assert result.exit_code == code, (result.stderr, result.exception)
        if code:
            assert len(result.stderr.strip().splitlines()) == 1
        return result

    return call


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    file = tmp_path / "me.wav"
    soundfile.write(file, tiny.recording(1.5), 24000)
    return file


PLAIN = ("--normaliser", "none", "--seed", "1")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_mode(run, prompt: Path, tmp_path: Path, version: int) -> None:
    rate = 22050 if version == 1 else 24000
    run(version, "say", "a", "-v", "中文女", "-o", "say.wav", *PLAIN)
    run(version, "clone", "a", "-p", prompt, "--prompt-text", "b", "-o", "clone.wav", "--save-voice", "me", *PLAIN)
    run(version, "convert", prompt, "-v", "me", "-o", "convert.wav", "--speed", "1.5")
    for name in ("say", "clone", "convert"):
        assert soundfile.info(tmp_path / f"{name}.wav").samplerate == rate
    assert soundfile.info(tmp_path / "convert.wav").duration == pytest.approx(1.0, abs=0.05)
    streamed = run(version, "say", "a", "-v", "me", "--stream", *PLAIN)
    samples, got = soundfile.read(io.BytesIO(streamed.stdout_bytes))
    assert got == rate
    assert np.abs(samples).max() > 0
    run(version, "say", "a", "-v", "me", "-o", "greedy.wav", "--sampling", "top_k=1,tau=2", *PLAIN)
    listed = [line.split()[0] for line in run(version, "voices").stdout.splitlines()]
    assert listed == ["default", "me", "中文女", "英文男"]


def test_an_instruction_and_text_that_is_still_being_written(run, prompt: Path, tmp_path: Path) -> None:
    run(3, "clone", "a", "-p", prompt, "--instruct", "be glad", "-o", "glad.wav", *PLAIN)
    run(3, "clone", "a", "-p", prompt, "-o", "plain.wav", *PLAIN)
    assert (tmp_path / "glad.wav").read_bytes() != (tmp_path / "plain.wav").read_bytes()
    live = run(3, "say", "--live", "-v", "中文女", "--stream", *PLAIN, input="ab")
    assert soundfile.info(io.BytesIO(live.stdout_bytes)).samplerate == 24000


def test_a_model_without_voices(official_model, tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "CosyVoice2-0.5B"
    folder.mkdir()
    for file in official_model(2).iterdir():
        if file.name != "spk2info.pt":
            (folder / file.name).symlink_to(file)
    listed = CliRunner().invoke(app, ["voices", "--model", str(folder)])
    assert listed.exit_code == 0
    assert listed.stdout == ""
    assert "voices add NAME" in listed.stderr
    asked = CliRunner().invoke(app, ["say", "a", "--model", str(folder)])
    assert asked.exit_code == 5
    assert "give it a recording" in asked.stderr


def test_what_is_not_there(run) -> None:
    assert "cannot follow instructions" in run(1, "say", "a", "--instruct", "be glad", *PLAIN, code=2).stderr
    assert "whole text" in run(1, "say", "--live", *PLAIN, input="a", code=2).stderr
    assert "leave the text" in run(3, "say", "a", "--live", *PLAIN, code=2).stderr
    assert "fp32, fp16, bf16, int8" in run(3, "say", "a", "--precision", "fp64", *PLAIN, code=2).stderr
    assert "top_q" in run(3, "say", "a", "--sampling", "top_q=1", *PLAIN, code=2).stderr
    assert "top_k" in run(3, "say", "a", "--sampling", "top_k=0", *PLAIN, code=2).stderr
    assert "normaliser" in run(3, "say", "a", "--normaliser", "guess", code=2).stderr
