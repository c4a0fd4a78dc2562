from __future__ import annotations

import io
import re

import numpy as np
import pytest
import soundfile
import torch

from fireside.audio.prompt import LEVEL_DB, MAX_SECONDS, load_prompt
from fireside.errors import AudioError

RATE = 16000


def voice(seconds: float, rate: int = RATE, level: float = 0.2) -> np.ndarray:
    """A buzz with a changing pitch and loudness: loud enough, never the same, never clipped."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (120 * time + 8 * np.sin(3 * time))
    buzz = sum(np.sin(k * phase) / k for k in range(1, 8))
    return (level * (0.75 + 0.25 * np.sin(11 * time)) * buzz / 2).astype(np.float32)


def silence(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.zeros(round(seconds * rate), dtype=np.float32)


def encoded(samples: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def level(samples: np.ndarray) -> float:
    return 10 * np.log10(np.mean(samples.astype(np.float64) ** 2))


def test_a_good_prompt_needs_no_note():
    prompt = load_prompt((voice(4.0), RATE))
    assert prompt.notes == ()
    assert prompt.sample_rate == RATE
    assert prompt.seconds == pytest.approx(4.0)
    assert prompt.samples.dtype == np.float32


@pytest.mark.parametrize("gain", [0.02, 0.2, 0.8])
def test_the_level_is_set(gain):
    prompt = load_prompt((voice(3.0, level=gain), RATE))
    assert level(prompt.samples) == pytest.approx(LEVEL_DB, abs=1.0)


def test_a_single_click_does_not_turn_the_voice_down_to_nothing():
    samples = voice(3.0, level=0.1)
    samples[20000] = 0.9
    prompt = load_prompt((samples, RATE))
    assert np.abs(prompt.samples).max() <= 0.951


def test_outer_silence_goes_and_inner_stays():
    samples = np.concatenate([silence(1.0), voice(2.0), silence(0.5), voice(1.0), silence(2.0)])
    prompt = load_prompt((samples, RATE))
    assert prompt.seconds == pytest.approx(3.5 + 2 * 0.15, abs=0.05)


def test_offset_is_removed():
    prompt = load_prompt((voice(3.0) + 0.3, RATE))
    assert abs(prompt.samples.mean()) < 2e-3
    assert level(prompt.samples) == pytest.approx(LEVEL_DB, abs=1.0)


@pytest.mark.parametrize(
    ("samples", "rate", "problem"),
    [
        (silence(3.0), RATE, "silent"),
        (np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32) * 2e-5, RATE, "silent"),
        (np.full(3 * RATE, 0.5, dtype=np.float32), RATE, "silent"),  # an offset is no sound
        (voice(0.8), RATE, "only 0.8 s"),
        (np.concatenate([silence(3), voice(0.4), silence(3)]), RATE, "only 0.7 s"),
        (voice(3.0, 7000), 7000, "7000 Hz"),
        (np.zeros(0, dtype=np.float32), RATE, "shape"),
        (np.full(3 * RATE, np.inf, dtype=np.float32), RATE, "not numbers"),
    ],
)
def test_what_cannot_be_a_prompt_is_refused(samples, rate, problem):
    with pytest.raises(AudioError, match=problem):
        load_prompt((samples, rate))


def test_more_than_30_s_is_cut_at_the_pause():
    samples = np.concatenate([voice(26.0), silence(0.4), voice(20.0)])
    prompt = load_prompt((samples, RATE))
    assert prompt.seconds == pytest.approx(26.0, abs=0.25)
    (note,) = prompt.notes
    assert "longer than 30 s" in note
    assert re.search(r"26\.[0-4] s", note)
    # The cut is in the pause: the prompt ends in silence.
    assert np.abs(prompt.samples[-RATE // 100 :]).max() < 1e-3


def test_more_than_30_s_without_a_pause_is_still_cut():
    prompt = load_prompt(encoded(voice(40.0)))
    assert 24.0 <= prompt.seconds <= MAX_SECONDS
    assert len(prompt.notes) == 1


def test_30_s_that_are_mostly_silence_are_not_cut():
    samples = np.concatenate([silence(20.0), voice(5.0), silence(20.0)])
    assert load_prompt((samples, RATE)).notes == ()


def test_clipping_and_telephone_quality_are_noted():
    clipped = np.clip(voice(3.0, level=0.9) * 2, -0.8, 0.8)
    (note,) = load_prompt((clipped, RATE)).notes
    assert "clipped" in note
    (note,) = load_prompt((voice(3.0, 8000), 8000)).notes
    assert "8000 Hz" in note


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_mixed_whatever_their_axis(channels):
    many = np.stack([voice(2.0)] * channels)
    expected = load_prompt((voice(2.0), RATE)).samples
    for source in ((many, RATE), (many.T, RATE), (torch.from_numpy(many), RATE)):
        np.testing.assert_allclose(load_prompt(source).samples, expected, atol=1e-6)
    np.testing.assert_allclose(load_prompt(encoded(many.T)).samples, expected, atol=1e-3)


def test_int16_samples_are_scaled():
    integers = (voice(2.0) * 32767).astype(np.int16)
    expected = load_prompt((voice(2.0), RATE)).samples
    np.testing.assert_allclose(load_prompt((integers, RATE)).samples, expected, atol=1e-3)


def test_paths_are_read_and_missing_ones_named(tmp_path):
    path = tmp_path / "me.flac"
    soundfile.write(path, voice(2.0), RATE)
    assert load_prompt(path).seconds == load_prompt(str(path)).seconds == pytest.approx(2.0)
    with pytest.raises(AudioError, match=r"you\.flac"):
        load_prompt(tmp_path / "you.flac")


def test_as_it_was_recorded():
    """What released models are given: offset, level and the silence around the speech stay."""
    samples = np.concatenate([silence(0.5), voice(3.0, level=0.05) + np.float32(0.01), silence(0.7)])
    prompt = load_prompt((samples, RATE), as_recorded=True)
    np.testing.assert_array_equal(prompt.samples, samples)
    with pytest.raises(AudioError, match="silent"):
        load_prompt((silence(3.0), RATE), as_recorded=True)


@pytest.mark.parametrize("as_recorded", [False, True])
def test_how_long_it_may_be(as_recorded):
    samples = np.concatenate([voice(33.0), silence(0.4), voice(10.0)])
    prompt = load_prompt((samples, RATE), max_seconds=36.0, as_recorded=as_recorded)
    assert prompt.cut
    assert 33.0 <= prompt.seconds <= 33.4
    assert not load_prompt((samples, RATE), max_seconds=60.0, as_recorded=as_recorded).cut
