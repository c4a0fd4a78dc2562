"""The engine on tiny official models: full mask when not streamed, chunk mask to the end when streamed, and every mode
with the LM input that it was made for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from fireside import Fireside, load
from fireside.engine.engine import Engine
from fireside.engine.noise import start_noise
from fireside.errors import TextError, UsageError, VoiceError
from fireside.models.layout import ControlIds, text_ids
from fireside.models.turns import Step
from fireside.request import AudioChunk, SpeechRequest
from fireside.voices import Voice, VoiceCard

VERSIONS = (1, 2, 3)
RNG = np.random.default_rng(0)
TOKENS = tuple(RNG.integers(0, 4000, 130).tolist())
TRANSCRIPT = (7, 8, 9)
PROMPT = 9


def make_voice(tts: Fireside, prompt: int = PROMPT, words: tuple[int, ...] = TRANSCRIPT) -> Voice:
    """A voice with a random prompt."""
    rng = np.random.default_rng(3)
    frames = tts.model.config.flow.frames(prompt)
    return Voice(
        VoiceCard("somebody", words=(words,) if words else (), word_ends=(prompt,) if words else ()),
        embedding=rng.standard_normal(192).astype(np.float32),
        prompt_tokens=rng.integers(0, 4000, prompt),
        prompt_mel=rng.normal(-5, 2, (frames, 80)).astype(np.float32),
    )


@pytest.fixture
def open_tts(official_model: Callable[[int], Path], home: Path) -> Callable[[int], Fireside]:
    """From a version to its tiny model."""
    return lambda version: load(official_model(version), normaliser="none")


def brief(tts: Fireside, max_ratio: float) -> Fireside:
    """A model with random weights seldom ends by itself: let it say so many ids for a text id at most."""
    config = tts.model.config
    lm = config.lm.model_copy(update={"min_ratio": 1.0, "max_ratio": max_ratio})
    tts.model.config = config.model_copy(update={"lm": lm})
    return tts


def joined(chunks: Iterator[AudioChunk]) -> np.ndarray:
    return np.concatenate([chunk.samples for chunk in chunks])


def conversion(tts: Fireside, tokens: int, **changes: Any) -> SpeechRequest:
    return replace(SpeechRequest(make_voice(tts), tokens=(TOKENS[:tokens],)), **changes)


def one_shot(tts: Fireside, request: SpeechRequest, chunked: bool) -> np.ndarray:
    """What the pure modules make of a request's tokens."""
    model, voice = tts.model, request.voice
    mel = model.flow.inference(
        torch.tensor(request.tokens),
        torch.from_numpy(voice.prompt_tokens)[None],
        torch.from_numpy(voice.prompt_mel.T)[None],
        torch.from_numpy(voice.embedding)[None],
        start_noise(model.config.flow, 0, 1000)[None],
        chunked=chunked,
    )
    with torch.inference_mode():
        return model.vocoder(mel, seed=0, phase=model.vocoder.start_phase(0))[0][0].numpy()


def snr(got: np.ndarray, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    error = max(np.linalg.norm(got.astype(np.float64) - expected), 1e-9)
    return float(20 * np.log10(np.linalg.norm(expected) / error))


@pytest.mark.parametrize("version", VERSIONS)
def test_not_streamed_is_one_shot_under_the_full_mask(open_tts, version: int) -> None:
    tts = open_tts(version)
    request = conversion(tts, 30)
    chunks = list(tts.chunks(request))
    assert len(chunks) == 1
    assert snr(chunks[0].samples, one_shot(tts, request, chunked=False)) > 60


@pytest.mark.parametrize("version", [2, 3])
def test_streamed_is_one_shot_under_the_chunk_mask(open_tts, version: int) -> None:
    tts = open_tts(version)
    engine = Engine(tts.model, exact_vocoder=True)
    request = conversion(tts, 70, streaming=True)
    chunks = list(engine.generate(request))
    assert len(chunks) > 1
    whole = one_shot(tts, request, chunked=True)
    assert snr(np.concatenate([chunk.samples for chunk in chunks]), whole) > 40
    assert snr(one_shot(tts, request, chunked=False), whole) < 30, "the masks differ"


def test_version_1_streams_as_it_was_released(open_tts) -> None:
    tts = open_tts(1)
    chunks = list(tts.chunks(conversion(tts, 130, streaming=True)))
    assert [len(chunk.tokens) for chunk in chunks] == [120, 10]
    frames = tts.model.config.flow.frames
    assert sum(len(chunk.samples) for chunk in chunks) == 256 * (frames(120) - 34 + frames(30))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("streaming", [False, True])
def test_speed(open_tts, version: int, streaming: bool) -> None:
    tts = open_tts(version)
    samples = joined(tts.chunks(conversion(tts, 40, streaming=streaming, speed=1.6)))
    frames = tts.model.config.flow.frames(40)
    assert len(samples) == int(frames / 1.6) * tts.model.config.vocoder.hop_length


def test_one_stream_leaves_the_next_as_it_is(open_tts) -> None:
    """The released hops grow from request to request; a request's hops are its own."""
    tts = open_tts(2)
    first, second = (list(tts.chunks(conversion(tts, 60, streaming=True))) for _ in range(2))
    assert [len(chunk.tokens) for chunk in first] == [len(chunk.tokens) for chunk in second]
    assert len(first) > 1
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)


class Said:
    """In a machine's place."""

    done = False

    def next(self) -> Step | None:
        return None if self.done else Step([0], ())


class Listener:
    """In a decoder's place: keeps what was admitted, and says what it was told to say."""

    def __init__(self, says: Sequence[int]) -> None:
        self.says = list(says)
        self.admitted: list[tuple[Any, torch.Tensor | None]] = []
        self.free_slots = self.rows = 1
        self.small = True

    def admit(self, machine: Any, sampler: Any, speaker: torch.Tensor | None = None) -> Any:
        self.admitted.append((machine, speaker))
        self.handle = type("Handle", (), {"machine": Said(), "length": 0})()
        return self.handle

    def step(self, handles: Any = None) -> list[tuple[Any, int]]:
        token = self.says.pop(0)
        self.handle.machine.done = not self.says
        return [(self.handle, token)]

    def release(self, handle: Any) -> None:
        self.admitted.append((handle, None))


def heard(tts: Fireside, request: SpeechRequest) -> tuple[list[int], torch.Tensor | None]:
    """What the LM is fed first, and the speaker embedding that it is given."""
    listener = Listener(TOKENS[:8])
    tts.engine.__dict__["_decoder"] = listener
    list(tts.chunks(request))
    machine, speaker = listener.admitted[0]
    return machine.next().feed, speaker


def expected_feed(tts: Fireside, text: Sequence[int], speech: Sequence[int]) -> list[int]:
    control = ControlIds.of(tts.model.config.lm)
    return [control.sos, *text_ids(text), control.task, *speech]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_lm_hears_in_each_mode(open_tts, version: int) -> None:
    tts = open_tts(version)
    frontend = tts.engine.frontend
    said = list(frontend.pieces("Hi.")[0].tokens)
    system = list(frontend.instruction(None))
    assert bool(system) == (version == 3)
    voice = make_voice(tts)
    prompt = voice.prompt_tokens.tolist()

    feed, speaker = heard(tts, tts.request("Hi.", "中文女"))
    assert feed == expected_feed(tts, [*system, *said], [])
    assert torch.equal(speaker, torch.from_numpy(tts.voice("中文女").embedding))
    feed, speaker = heard(tts, tts.request("Hi.", voice))
    assert feed == expected_feed(tts, [*system, *TRANSCRIPT, *said], prompt)
    assert speaker is not None
    feed, speaker = heard(tts, tts.request("Hi.", voice, use_transcript=False))
    assert feed == expected_feed(tts, [*system, *said], [])
    assert speaker is not None


@pytest.mark.parametrize("version", [2, 3])
def test_what_the_lm_hears_of_an_instruction(open_tts, version: int) -> None:
    tts = open_tts(version)
    frontend = tts.engine.frontend
    said = frontend.pieces("Hi.")[0].tokens
    told = frontend.instruction("be glad")
    assert told[-1] == frontend.tokenizer.special["<|endofprompt|>"]
    feed, _ = heard(tts, tts.request("Hi.", make_voice(tts), instruction="be glad"))
    assert feed == expected_feed(tts, [*told, *said], []), "the prompt is the flow's only"
    written = "be glad<|endofprompt|>"  # as the original's callers write it, and taken as it is
    feed, _ = heard(tts, tts.request(f"{written}Hi.", make_voice(tts), use_transcript=False))
    assert feed == expected_feed(tts, [*frontend.instruction(written), *said], [])


def test_an_instruct_model_is_told_without_its_speaker(official_model, home, tmp_path: Path) -> None:
    folder = tmp_path / "CosyVoice-300M-Instruct"
    folder.symlink_to(official_model(1), target_is_directory=True)
    tts = load(folder, normaliser="none")
    tts.model.__dict__["config"] = tts.model.config.model_copy(update={"modes": (*tts.model.config.modes, "instruct")})
    feed, speaker = heard(tts, tts.request("Hi.", "中文女", instruction="be glad"))
    told = tts.engine.frontend.instruction("be glad")
    assert feed == expected_feed(tts, [*told, *tts.engine.frontend.pieces("Hi.")[0].tokens], [])
    assert speaker is None


def test_only_version_3_shortens_silence(open_tts) -> None:
    for version in VERSIONS:
        tts = open_tts(version)
        silence = [1, 2, 28, 29, 55, 248, 494, 2241, 1, 2, 5, 1, 6]
        tts.engine.__dict__["_decoder"] = Listener(silence)
        tokens = [token for chunk in tts.chunks(tts.request("Hi.", "中文女")) for token in chunk.tokens]
        if version == 3:
            assert tokens == [*silence[:5], 5, 1, 6]
        else:
            assert tokens == silence


@pytest.mark.parametrize("version", VERSIONS)
def test_it_speaks(open_tts, version: int) -> None:
    """The whole way with the real LM; and the same seed says the same, alone or beside another."""
    tts = brief(open_tts(version), 6.0)
    generators = torch.get_rng_state(), np.random.get_state()[1].copy()
    request = tts.request("a", "英文男", seed=3)
    tts.engine.submit(request)
    tts.engine.submit(tts.request("b", "中文女", seed=4))
    beside: list[AudioChunk] = []
    while tts.engine.active:
        beside += [chunk for key, chunk in tts.engine.step() if key == 1]  # type: ignore[misc]
    alone = list(tts.chunks(request))
    assert [chunk.tokens for chunk in alone] == [chunk.tokens for chunk in beside]
    assert len(alone[0].tokens) >= 2
    np.testing.assert_allclose(alone[0].samples, beside[0].samples, atol=1e-3)
    assert torch.equal(torch.get_rng_state(), generators[0])
    np.testing.assert_array_equal(np.random.get_state()[1], generators[1])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recording_becomes_a_voice_as_it_is(open_tts, version: int) -> None:
    """At the model's own rates (the original takes CosyVoice 1's mel of 24 kHz audio), neither trimmed nor levelled."""
    tts = open_tts(version)
    samples = tiny.recording(3)
    voice = tts.make_voice((samples, 24000), "Hi.")
    config = tts.model.config
    expected = 3 * config.mel.sample_rate / config.mel.hop_length
    assert len(voice.prompt_mel) == pytest.approx(expected, abs=2)
    assert len(voice.prompt_tokens) == pytest.approx(3 * config.token_rate, abs=1)
    assert voice.card.words == (tts.engine.frontend.words("Hi.")[0].tokens,)
    if version > 1:
        assert len(voice.prompt_mel) == 2 * len(voice.prompt_tokens)
    louder = tts.make_voice((2 * samples, 24000))
    assert np.abs(louder.prompt_mel - voice.prompt_mel).mean() == pytest.approx(np.log(2), abs=0.05)


@pytest.mark.parametrize("version", [2, 3])
def test_bistream(open_tts, version: int) -> None:
    """Text in parts: what is said does not depend on how they were cut; the first audio needs no end of text."""
    tts = brief(open_tts(version), 4.0)
    words = ["one ", "two ", "three ", "four ", "five ", "six ", "seven"]
    voice = make_voice(tts)

    def speak(parts: list[str]) -> tuple[int, list[int]]:
        taken: list[int] = []

        def source() -> Iterator[str]:
            for index, part in enumerate(parts):
                taken.append(index)
                yield part

        chunks = tts.chunks(tts.request(source(), voice, seed=5, streaming=True))
        first = next(chunks)
        before = len(taken)
        return before, [token for chunk in [first, *chunks] for token in chunk.tokens]

    before, tokens = speak(words)
    assert before < len(words)
    assert tokens == speak(["".join(words[:5])[:-1], " ", *words[5:]])[1]
    assert tts.engine.active == 0
    with pytest.raises(TextError, match="nothing to say"):
        list(tts.stream(iter([" "]), voice))


def test_a_text_that_breaks_off_cancels_the_request(open_tts) -> None:
    tts = open_tts(3)

    def breaks_off() -> Iterator[str]:
        yield "one "
        raise ConnectionError

    with pytest.raises(ConnectionError):
        list(tts.stream(breaks_off(), make_voice(tts)))
    assert tts.engine.active == 0


@pytest.mark.parametrize(
    ("version", "what", "says"),
    [
        (1, {"instruction": "be glad", "voice": "中文女"}, "follow instructions"),
        (1, {"text": iter(["Hi."]), "voice": "中文女"}, "whole text"),
        (3, {"voice": "nobody"}, "There is no voice 'nobody'"),
    ],
)
def test_modes_that_are_not_there(open_tts, version: int, what: dict[str, Any], says: str) -> None:
    tts = open_tts(version)
    with pytest.raises((UsageError, VoiceError), match=says):
        tts.chunks(tts.request(**{"text": "Hi.", **what}))
    assert tts.engine.active == 0


def test_half_precision_keeps_what_is_said_close(official_model, home) -> None:
    """bf16 throughout: the audio is that of the same tokens, and the past takes half the bytes."""
    exact, half = (load(official_model(3), normaliser="none", precision=p) for p in ("fp32", "bf16"))
    request = conversion(exact, 40, streaming=True)
    assert half.engine._streaming.flow.bytes_per_frame * 2 == exact.engine._streaming.flow.bytes_per_frame
    samples = [joined(tts.chunks(request)) for tts in (exact, half)]
    assert samples[0].shape == samples[1].shape
    assert np.isfinite(samples[1]).all()


def test_text_that_keeps_others_waiting(open_tts) -> None:
    """All rows of the LM may be taken by requests whose text is still to come; who waits for one blocks nobody."""
    tts = brief(open_tts(3), 4.0)
    engine = Engine(tts.model, rows=1, normaliser="none")
    key = engine.submit(replace(tts.request("x", "中文女", seed=1), text=None))
    engine.feed(key, "one two ")
    for _ in range(200):
        engine.step()
    got: list[AudioChunk] = []
    other = threading.Thread(target=lambda: got.extend(engine.generate(tts.request("a", "中文女", seed=2))))
    other.start()
    time.sleep(0.05)
    assert not got
    engine.end(key)
    other.join(timeout=120)
    assert got
    assert got[-1].final
