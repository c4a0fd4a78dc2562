"""The command line on a tiny model: what it writes, what it says, and how it exits."""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
from typer.testing import CliRunner, Result

from fireside.cli.app import app
from fireside.engine.engine import Engine
from fireside.engine.record import Record
from fireside.errors import ModelError
from fireside.request import AudioChunk

TEXT = "The fire is lit, and there is tea."
LAST_LINE = re.compile(r"(\S+): (\d+\.\d\d) s of audio, TTFA (\d+\.\d\d) s, RTF (\d+\.\d\d)")


@pytest.fixture
def there(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the command runs in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    file = tmp_path / "me.wav"
    soundfile.write(file, tiny.recording(3), 24000)
    return file


@pytest.fixture
def run(tiny_model: Path, there: Path):
    """Run a command on the tiny model; nothing but a sentence may go to stderr."""

    def call(*args: object, input: str | bytes | None = None, code: int = 0, model: bool = True) -> Result:
        words = [str(arg) for arg in args]
        if model:
            words += ["--model", str(tiny_model)]
        result = CliRunner().invoke(app, words, input=input)
        assert result.exit_code == code, (result.stderr, result.exception)
        assert "Traceback" not in result.stderr
        if code not in (0, 2):
            assert len(result.stderr.strip().splitlines()) == 1
            assert result.stderr.startswith("fireside: ")
        return result

    return call


def test_say_ends_with_one_line(run, there: Path) -> None:
    result = run("say", TEXT, "-o", "out.wav", "--seed", 1)
    lines = result.stdout.splitlines()
    assert len(lines) == 1
    match = LAST_LINE.fullmatch(lines[0])
    assert match
    assert match[1] == "out.wav"
    assert float(match[2]) == pytest.approx(soundfile.info(there / "out.wav").duration, abs=0.01)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.opus"])
def test_formats(run, there: Path, name: str) -> None:
    run("say", TEXT, "-o", name, "-q")
    assert soundfile.info(there / name).frames > 0


def test_without_output_it_is_speech_wav(run, there: Path) -> None:
    assert run("say", TEXT).stdout.startswith("speech.wav: ")
    assert (there / "speech.wav").exists()


def test_texts_from_files_and_pipes(run, there: Path) -> None:
    (there / "a.txt").write_text(TEXT, encoding="utf-8-sig")
    run("say", TEXT, "-o", "argument.wav", "--seed", 1)
    run("say", "-f", "a.txt", "-o", "file.wav", "--seed", 1)
    run("say", "-o", "pipe.wav", "--seed", 1, input=TEXT)
    run("say", "-", "-o", "dash.wav", "--seed", 1, input=TEXT)
    run("say", "-f", "-", "-o", "dashed.wav", "--seed", 1, input=TEXT)
    expected = (there / "argument.wav").read_bytes()
    for name in ("file", "pipe", "dash", "dashed"):
        assert (there / f"{name}.wav").read_bytes() == expected


def test_options_reach_the_voice(run, there: Path) -> None:
    def made(*args: object) -> bytes:
        run("say", TEXT, "-o", "out.wav", "--seed", 1, *args)
        return (there / "out.wav").read_bytes()

    plain = made()
    assert made("--voice", "default") == plain
    # The number of threads may change the order of sums, and so the last bit of a sample.
    samples, fewer = (np.frombuffer(audio[44:], "<i2").astype(int) for audio in (plain, made("--threads", 1)))
    assert np.abs(samples - fewer).max() <= 1
    for change in (["-v", "bo"], ["--seed", 2], ["--speed", 1.3], ["--instruct", "slowly"]):
        assert made(*change) != plain


def test_stream_is_wav_on_stdout(run, there: Path) -> None:
    result = run("say", TEXT, "--stream", "--seed", 1)
    samples, rate = soundfile.read(io.BytesIO(result.stdout_bytes))
    assert rate == 24000
    assert LAST_LINE.search(result.stderr)
    assert not list(there.iterdir())
    run("say", TEXT, "--stream", "--seed", 1, "-o", "out.wav")
    np.testing.assert_allclose(soundfile.read(there / "out.wav")[0], samples, atol=1.01 / 32768)
    assert run("say", TEXT, "-o", "-", "--seed", 1).stdout_bytes == result.stdout_bytes


def test_clone(run, there: Path, prompt: Path) -> None:
    run("clone", TEXT, "--prompt", prompt, "--prompt-text", "What I say.", "-o", "a.wav", "--save-voice", "me")
    assert (there / "a.wav").exists()
    run("say", TEXT, "-v", "me")
    run("clone", TEXT, "--prompt", prompt, "--save-voice", "me", code=5)
    assert "needs --prompt" in run("clone", TEXT, code=2).stderr


def test_convert(run, there: Path, prompt: Path) -> None:
    run("convert", prompt, "--voice", "bo", "-o", "a.wav")
    run("convert", prompt, "--prompt", prompt, "-o", "b.wav")
    assert soundfile.info(there / "a.wav").duration == pytest.approx(3, abs=0.05)
    assert "one of --voice" in run("convert", prompt, code=2).stderr
    assert "one of --voice" in run("convert", prompt, "--voice", "bo", "--prompt", prompt, code=2).stderr


def test_voices(run, prompt: Path) -> None:
    listed = run("voices").stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["default", "anna", "bo"]
    assert run("voices", "list").stdout == listed
    added = ("voices", "add", "me", "--prompt", prompt, "--prompt-text", "What I say.", "--language", "en")
    run(*added, "--consent", "my own")
    shown = run("voices", "show", "me").stdout
    assert "my own" in shown
    assert "What I say." in shown
    assert "yours" in run("voices").stdout
    run(*added, code=5)
    run("voices", "remove", "me")
    assert run("voices").stdout == listed
    assert "Did you mean 'anna'" in run("voices", "show", "ana", code=5).stderr
    assert "stays" in run("voices", "remove", "anna", code=5).stderr
    run("voices", "add", "default", "--prompt", prompt, code=5)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["say", ""], 3, ""),
        (["say", "...!"], 3, ""),
        (["say", "Привет"], 3, "(?i)english"),
        (["say", TEXT, "-v", "ann"], 5, "'anna'"),
        (["say", TEXT, "--speed", "9"], 2, "0.5 to 2"),
        (["say", TEXT, "--instruct", "sing"], 2, "speak slowly"),
        (["say", TEXT, "--device", "gpu"], 2, "auto, cpu, cuda"),
        (["convert", "a.wav", "-v", "bo", "--device", "cuda:99"], 2, "cuda:99"),
        (["say", TEXT, "-o", "a.docx"], 2, r"\.wav"),
        (["say", TEXT, "-o", "none/a.wav"], 8, "none"),
        (["say", TEXT, "-o", "."], 2, ""),
        (["say", TEXT, "-f", "a.txt"], 2, "not both"),
        (["say", "-f", "none.txt"], 3, r"none\.txt"),
        (["say", "-f", "."], 3, "cannot be read"),
        (["clone", TEXT, "--prompt", "none.wav"], 4, r"none\.wav"),
        (["convert", "none.wav", "--voice", "bo"], 4, r"none\.wav"),
    ],
)
def test_bad_input(run, there: Path, args: list[str], code: int, says: str) -> None:
    result = run(*args, code=code)
    assert re.search(says, result.stderr)
    assert not list(there.iterdir()), "nothing is left behind"


def test_output_is_checked_before_the_work(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("fireside.tts.load", never)
    run("say", TEXT, "-o", "none/a.wav", code=8)


def test_a_text_that_is_not_utf8(run, there: Path) -> None:
    (there / "a.txt").write_bytes("Füße".encode("latin-1"))
    assert "not UTF-8" in run("say", "-f", "a.txt", code=3).stderr


def test_models_that_are_none(run, there: Path, tiny_model: Path) -> None:
    assert "fireside.yaml" in run("say", TEXT, "--model", there, code=6, model=False).stderr
    assert "is not a model" in run("say", TEXT, "--model", "nothing", code=6, model=False).stderr
    (there / "fireside.yaml").write_text("mood: merry\n")
    assert "mood: unknown key" in run("say", TEXT, "--model", there, code=7, model=False).stderr


def test_unexpected_errors_are_one_sentence_too(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("out of tea")

    monkeypatch.setattr(Engine, "advance", broken)
    assert "out of tea" in run("say", TEXT, code=1).stderr
    with pytest.raises(ModelError):
        CliRunner().invoke(app, ["say", TEXT, "--debug", "-m", "x"], catch_exceptions=False)


def test_ctrl_c_keeps_what_was_made(run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emit = Record.emit
    made: list[AudioChunk] = []

    def interrupted(self: Record, *args) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt
        emit(self, *args)
        made.append(self.ready[-1])

    monkeypatch.setattr(Record, "emit", interrupted)
    result = run("say", (TEXT + " ") * 5, "-o", "out.wav", "--seed", 1, code=130)
    seconds = sum(chunk.seconds for chunk in made)
    assert f"{seconds:.1f} s of audio were made and are kept in out.wav" in result.stderr
    assert soundfile.info(there / "out.wav").duration == pytest.approx(seconds, abs=1e-3)


def test_ctrl_c_before_anything(run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Record, "emit", interrupted)
    assert "before any audio" in run("say", TEXT, "-o", "out.wav", code=130).stderr
    assert not list(there.iterdir())


def test_help_teaches(run) -> None:
    for args in (["--help"], ["say", "-h"], ["clone", "--help"], ["convert", "--help"], ["voices", "--help"]):
        assert "fireside " in run(*args, model=False).stdout
    assert "fireside" in run("--version", model=False).stdout
    run("nonsense", code=2, model=False)


def python(*args: object, **options) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "fireside", *map(str, args)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_help_is_quick_and_loads_nothing(there: Path) -> None:
    code = (
        "import sys; sys.argv = ['fireside', 'say', '--help']\n"
        "import fireside.cli, atexit\n"
        "heavy = ('torch', 'soundfile', 'scipy', 'yaml')\n"
        "try:\n fireside.cli.main()\n"
        "except SystemExit:\n assert not [m for m in heavy if m in sys.modules], 'heavy imports'\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1, "of CPU, not of a busy clock"


def test_a_real_ctrl_c(tiny_model: Path, there: Path) -> None:
    text = there / "long.txt"
    text.write_text((TEXT + " ") * 500, encoding="utf-8")
    # A shell gives its background jobs a SIGINT that is ignored; a terminal does not.
    process = python(
        *("say", "-f", text, "-o", "out.wav", "--stream", "-m", tiny_model),
        cwd=there,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert len(process.stdout.read(30_000)) == 30_000  # it speaks
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert re.search(rb"fireside: interrupted; .* s of audio were made and are kept in out.wav", err)
    assert b"Traceback" not in err
    samples, _ = soundfile.read(there / "out.wav", dtype="int16")
    assert len(samples) * 2 >= 30_000 - 44
    assert len(samples) < 500 * 24000


def test_a_listener_who_leaves(tiny_model: Path, there: Path) -> None:
    text = there / "long.txt"
    text.write_text((TEXT + " ") * 200, encoding="utf-8")
    process = python("say", "-f", text, "--stream", "-m", tiny_model, cwd=there)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1000)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=300) == 8
    assert b"Traceback" not in err
    assert err.startswith(b"fireside: The audio stream was closed by its reader")
    assert err.count(b"\n") == 1


def test_a_progress_bar_on_a_terminal(tiny_model: Path, there: Path) -> None:
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    words = [sys.executable, "-m", "fireside", "say", TEXT, "-o", "a.wav", "-m", str(tiny_model)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    assert process.wait(timeout=300) == 0
    os.close(leader)
    assert b"speaking" in shown
    assert b"s of audio" in shown
