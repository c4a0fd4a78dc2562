"""The bundled voice, when its weights are in the package: it speaks, and the API's promises hold for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lm_cases import Recorder

from fireside import Fireside, hub, load
from fireside.engine.lm import LMDecoder
from fireside.engine.products import halves
from fireside.engine.sampling import greedy
from fireside.models.checkpoint import PARTS
from fireside.models.turns import PlainMachine


@pytest.fixture(scope="module")
def hearth() -> Fireside:
    folder = hub.bundled_folder()
    if not (folder / hub.CONFIG_FILE).is_file():
        pytest.skip(f"needs the trained weights of hearth in {folder}: recipes/hearth makes them")
    return load()


def test_every_part_loads(hearth: Fireside) -> None:
    for part in PARTS:
        assert getattr(hearth.model, part) is not None


def test_the_weights_are_small() -> None:
    folder = hub.bundled_folder()
    if not folder.is_dir():
        pytest.skip(f"needs the trained weights of hearth in {folder}: recipes/hearth makes them")
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 45e6


def test_it_has_voices_of_both_languages(hearth: Fireside) -> None:
    voices = hearth.voices
    assert voices[0].name == "default"
    assert {"en", "zh"} <= {voice.language for voice in voices}
    for card in voices:
        voice = hearth.voice(card.name)
        assert len(voice.prompt_tokens) >= 25
        assert card.words
        assert card.licence


@pytest.mark.parametrize("text", ["Good evening.", "晚上好。"])
def test_it_speaks(hearth: Fireside, text: str) -> None:
    speech = hearth.say(text, seed=7)
    assert 0.4 < speech.seconds < 4
    level = 20 * np.log10(np.sqrt(np.mean(speech.samples**2)))
    assert -40 < level < -10
    assert np.isfinite(speech.samples).all()
    again = np.concatenate([chunk.samples for chunk in hearth.stream(text, seed=7)])
    np.testing.assert_array_equal(again, speech.samples)


def test_voices_of_recordings_are_fitted(hearth: Fireside) -> None:
    assert all(hearth.voice(card.name).calibration is None for card in hearth.voices)
    assert all(hearth.voice(card.name).adaptation is None for card in hearth.voices)
    speech = hearth.say("The fire is lit, and there is tea for everybody who wants some.", seed=7)
    voice = hearth.make_voice((speech.samples, speech.sample_rate))
    assert voice.adaptation is not None
    assert 0.01 < np.abs(voice.adaptation).mean() < 0.3
    assert voice.calibration is not None
    made, true = voice.calibration
    assert np.abs(true - made)[1:-1].mean() < 0.5, "nats: it knows its own voice"


def test_its_lm_says_the_same_in_every_company(hearth: Fireside) -> None:
    """Exact, to the last bit of every score, with the products that its weights' precision allows here."""
    lm = hearth.model.lm
    lengths = (3, 5, 8, 13, 17, 20)
    decoder = LMDecoder(lm, slots=len(lengths), max_len=64)
    assert decoder.any_rows == halves([])

    def admit(decoder: LMDecoder, length: int) -> Recorder:
        recorder = Recorder(greedy)
        decoder.admit(PlainMachine(lm.control, range(30, 30 + length), min_tokens=length, max_tokens=length), recorder)
        return recorder

    together = []
    for length in lengths:
        together.append(admit(decoder, length))
        decoder.step()
    while decoder.step():
        pass
    for length, crowd in zip(lengths, together, strict=True):
        one = LMDecoder(lm, slots=1, max_len=64)
        alone = admit(one, length)
        while one.step():
            pass
        assert len(alone.scores) == length
        assert all(torch.equal(a, b) for a, b in zip(alone.scores, crowd.scores, strict=True))
