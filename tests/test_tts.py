"""The public face on a tiny model: what the README promises, without caring how it sounds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny

import fireside
from fireside import Fireside, Speech, load
from fireside.errors import AudioError, ModelError, OutputError, TextError, UsageError, VoiceError
from fireside.request import MAX_SPEED
from fireside.text.phones import PHONE_ID

RATE = 24000


@pytest.fixture
def tts(tiny_model: Path, home: Path) -> Fireside:
    return load(tiny_model)


@pytest.fixture(scope="module")
def prompt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompt") / "me.wav"
    soundfile.write(file, tiny.recording(3), RATE)
    return file


def test_import_is_light() -> None:
    code = "import fireside, sys; assert 'torch' not in sys.modules; fireside.load; assert fireside.Speech"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError):
        _ = fireside.nothing


def test_say(tts: Fireside, tmp_path: Path) -> None:
    speech = tts.say("Good evening. The fire is lit.", seed=7)
    assert isinstance(speech, Speech)
    assert speech.samples.dtype == np.float32
    assert speech.samples.ndim == 1
    assert np.abs(speech.samples).max() <= 1
    assert speech.sample_rate == RATE
    assert speech.seconds == speech.timings.audio_seconds == len(speech.samples) / RATE
    for name in ("a.wav", "a.flac", "a.mp3", "a.opus"):
        assert speech.save(tmp_path / name) == tmp_path / name
        assert soundfile.info(tmp_path / name).frames > 0
    saved, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == RATE
    np.testing.assert_allclose(saved, speech.samples, atol=1e-4)


def test_say_is_the_joined_stream(tts: Fireside) -> None:
    text = "Good evening. The fire is lit, and there is tea."
    chunks = list(tts.stream(text, seed=3))
    speech = tts.say(text, seed=3)
    assert len(chunks) > 1
    np.testing.assert_array_equal(np.concatenate([chunk.samples for chunk in chunks]), speech.samples)


def test_a_seed_is_always_known(tts: Fireside) -> None:
    speech = tts.say("The fire is lit.")
    np.testing.assert_array_equal(tts.say("The fire is lit.", seed=speech.seed).samples, speech.samples)
    assert tts.say("The fire is lit.").seed != speech.seed


def test_voices(tts: Fireside) -> None:
    assert [(voice.name, voice.language) for voice in tts.voices] == [
        ("default", "en"),
        ("anna", "en"),
        ("bo", "zh"),
    ]
    default, anna, bo = (tts.say("Good evening.", voice, seed=1).tokens for voice in ("default", "anna", "bo"))
    assert default == anna != bo
    with pytest.raises(VoiceError, match="Did you mean 'anna'"):
        tts.say("Good evening.", voice="ana")


def test_clone(tts: Fireside, prompt: Path) -> None:
    text = "The fire is lit."
    zero_shot = tts.clone(text, prompt, "What I say.", seed=1)
    cross_lingual = tts.clone(text, prompt, seed=1)
    assert zero_shot.tokens != cross_lingual.tokens
    samples, rate = soundfile.read(prompt, dtype="float32")
    for source in (str(prompt), prompt.read_bytes(), (samples, rate)):
        np.testing.assert_array_equal(tts.clone(text, source, seed=1).samples, cross_lingual.samples)
    voice = tts.make_voice(prompt, "What I say.")
    np.testing.assert_array_equal(tts.clone(text, voice, seed=1).samples, zero_shot.samples)


def test_a_recording_is_analysed_once(tts: Fireside, prompt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analysed: list[int] = []
    encode = tts.model.tokenizer.encode
    monkeypatch.setattr(tts.model.tokenizer, "encode", lambda *args: analysed.append(1) or encode(*args))
    first = tts.make_voice(prompt, "What I say.", name="first")
    again = tts.make_voice(prompt.read_bytes(), "What I say.", name="again", consent="mine")
    assert len(analysed) == 1
    assert (again.card.name, again.card.consent, again.card.prompt_text) == ("again", "mine", "What I say.")
    assert again.card.word_ends == first.card.word_ends
    np.testing.assert_array_equal(again.prompt_mel, first.prompt_mel)
    tts.make_voice(prompt, "What do I say?")  # other words end elsewhere
    tts.make_voice((tiny.recording(2), RATE), "What I say.")
    assert len(analysed) == 3
    quiet = (tiny.recording(3, 8000), 8000)
    for _ in range(2):
        notes: list[str] = []
        tts.make_voice(quiet, on_note=notes.append)
        assert "telephone" in notes[0], "who comes again hears it again"


def test_a_prompt_becomes_a_voice(tts: Fireside, prompt: Path) -> None:
    voice = tts.make_voice(prompt, "What do I say, here?", name="me", consent="mine")
    card = voice.card
    assert 2 <= len(voice.prompt_tokens) / tts.token_rate <= 3
    assert voice.prompt_mel.shape == (2 * len(voice.prompt_tokens), 80)
    assert np.linalg.norm(voice.embedding) == pytest.approx(1, abs=1e-5)
    assert len(card.words) == len(card.word_ends) == 5
    assert list(card.word_ends) == sorted(card.word_ends)
    assert card.word_ends[-1] == len(voice.prompt_tokens)
    tts.add_voice(voice)
    assert "me" in [each.name for each in tts.voices]
    kept = tts.voice("me")
    assert kept.card == card
    assert kept.card.consent == "mine"
    tts.say("Good evening.", "me")
    with pytest.raises(VoiceError, match="already"):
        tts.add_voice(voice)
    tts.remove_voice("me")
    with pytest.raises(VoiceError):
        tts.voice("me")
    with pytest.raises(VoiceError):
        tts.make_voice(prompt, name="no/name")


def test_a_prompt_is_calibrated_where_the_model_asks_for_it(
    tiny_model: Path, prompt: Path, tmp_path: Path, home: Path
) -> None:
    folder = tmp_path / "calibrating"
    shutil.copytree(tiny_model, folder)
    config = (folder / "fireside.yaml").read_text()
    assert load(folder).make_voice(prompt).calibration is None
    (folder / "fireside.yaml").write_text(config.replace("calibrate: false", "calibrate: true"))
    tts = load(folder)
    voice = tts.make_voice(prompt, name="me")
    assert voice.calibration is not None
    plain = tts.clone("Good evening.", replace(voice, calibration=None), seed=1)
    cloned = tts.clone("Good evening.", prompt, seed=1)
    assert cloned.tokens == plain.tokens
    assert np.abs(cloned.samples - plain.samples).max() > 1e-3
    tts.add_voice(voice)
    np.testing.assert_array_equal(tts.say("Good evening.", "me", seed=1).samples, cloned.samples)
    joined = np.concatenate([chunk.samples for chunk in tts.stream("Good evening.", "me", seed=1)])
    np.testing.assert_array_equal(joined, cloned.samples)
    assert tts.voice("anna").calibration is None


def test_convert(tts: Fireside, prompt: Path) -> None:
    speech = tts.convert(prompt, voice="bo")
    assert speech.seconds == pytest.approx(3, abs=0.05)
    np.testing.assert_array_equal(tts.convert(prompt, voice="bo").samples, speech.samples)
    other = tts.convert(prompt, prompt=prompt)
    assert other.seconds == speech.seconds
    assert not np.array_equal(other.samples, speech.samples)
    assert other.tokens == speech.tokens, "the words stay"
    chunks = np.concatenate([chunk.samples for chunk in tts.stream_convert(prompt, voice="bo")])
    np.testing.assert_array_equal(chunks, speech.samples)
    with pytest.raises(UsageError, match="not both"):
        tts.convert(prompt, voice="bo", prompt=prompt)


def test_convert_of_a_long_recording(tts: Fireside) -> None:
    source = tiny.recording(40, 16000)
    speech = tts.convert((source, 16000), voice="bo")
    assert speech.seconds == pytest.approx(40, abs=0.2)


def test_instruct(tts: Fireside) -> None:
    text = "The fire is lit."
    slow, fast = (tts.instruct(text, how, seed=1).tokens for how in ("speak slowly", "说快一点"))
    assert slow != fast
    assert slow == tts.instruct(text, "Slowly!", seed=1).tokens
    request = tts.request(text, instruction="speak slowly", seed=1)
    assert request.control == (PHONE_ID["<slower>"],)
    assert not request.use_prompt_text
    chunks = tts.stream(text, seed=1, instruction="speak slowly")
    assert tuple(token for chunk in chunks for token in chunk.tokens) == slow
    with pytest.raises(UsageError, match="speak slowly"):
        tts.instruct(text, "sing it")


def test_speed(tts: Fireside) -> None:
    plain, fast = (tts.say("The fire is lit, and there is tea.", speed=s, seed=1) for s in (1.0, 1.6))
    assert fast.tokens == plain.tokens
    assert fast.seconds < 0.8 * plain.seconds
    for speed in (0.0, -1.0, MAX_SPEED + 0.1, float("nan")):
        with pytest.raises(UsageError, match="speed"):
            tts.say("The fire is lit.", speed=speed)


@pytest.mark.parametrize("text", ["", " \n", "...", "！？"])
def test_nothing_to_say(tts: Fireside, text: str) -> None:
    with pytest.raises(TextError):
        tts.say(text)
    with pytest.raises(TextError):
        tts.stream(text)


@pytest.mark.parametrize("text", ["Привет, мир", "こんにちは", "مرحبا"])
def test_scripts_that_hearth_cannot_read(tts: Fireside, text: str) -> None:
    with pytest.raises(TextError, match=r"(?i)english"):
        tts.say(text)


def test_a_prompt_that_cannot_be_used(tts: Fireside, tmp_path: Path) -> None:
    silent, short, text = (tmp_path / name for name in ("silent.wav", "short.wav", "text.wav"))
    soundfile.write(silent, np.zeros(2 * RATE), RATE)
    soundfile.write(short, tiny.recording(0.5), RATE)
    text.write_text("not audio")
    for file, problem in [
        (tmp_path / "none.wav", "no file"),
        (silent, "silent"),
        (short, "at least 1 s"),
        (text, "not audio"),
        (tmp_path, "folder"),
    ]:
        with pytest.raises(AudioError, match=problem):
            tts.clone("Good evening.", file)
        if file is not short:
            with pytest.raises(AudioError, match=problem):
                tts.convert(file)


@pytest.mark.parametrize(
    ("make", "remark"),
    [
        (lambda: (tiny.recording(40, 16000), 16000), "longer than 30 s"),
        (lambda: (np.clip(tiny.recording(3, level=8), -1, 1), RATE), "clipped"),
        (lambda: (tiny.recording(3, 8000), 8000), "8000 Hz"),
        (lambda: (np.stack([tiny.recording(3)] * 2), RATE), None),
    ],
)
def test_prompts_with_a_remark(tts: Fireside, make, remark: str | None) -> None:
    speech = tts.clone("Good evening.", make())
    assert any(remark in note for note in speech.notes) if remark else not speech.notes


def test_a_prompt_text_that_does_not_fit(tts: Fireside, prompt: Path) -> None:
    with pytest.raises(AudioError, match="longer than what the recording can hold"):
        tts.clone("Good evening.", prompt, "It rained all day, and the river rose. " * 20)
    cut = tts.clone("Good evening.", (tiny.recording(40, 16000), 16000), "It rained all day. " * 3)
    assert any("text" in note for note in cut.notes), "the words beyond the cut are not in the prompt"


def test_a_place_that_cannot_be_written(tts: Fireside, tmp_path: Path) -> None:
    speech = tts.say("Good evening.")
    with pytest.raises(OutputError):
        speech.save(tmp_path / "none" / "a.wav")
    with pytest.raises(UsageError):
        speech.save(tmp_path / "a.docx")


def test_a_long_text(tts: Fireside) -> None:
    text = ("The fire is lit, and there is tea. 炉火已经点燃，茶也备好了。" * 600)[:20_000]
    stream = tts.stream(text)
    first = next(iter(stream))
    assert first.progress < 0.02
    assert sum(plan.weight for state in tts.engine._requests.values() for _, plan in state.plans) > 10_000


def test_load(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        load(tmp_path / "nothing")
