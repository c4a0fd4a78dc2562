from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fireside.audio import resample as module
from fireside.audio.resample import resample
from fireside.errors import AudioError


def tone(rate: int, hz: float, seconds: float = 0.5) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hz * torch.arange(round(rate * seconds)) / rate)


@pytest.mark.parametrize(
    ("orig", "new"), [(48000, 16000), (44100, 24000), (8000, 16000), (44101, 16000), (16000, 24007)]
)
def test_a_tone_keeps_its_pitch_and_level(orig, new):
    got = resample(tone(orig, 440.0), orig, new)
    assert len(got) == math.ceil(orig * 0.5 // 1 * new / orig)
    middle = slice(new // 10, -new // 10)
    torch.testing.assert_close(got[middle], tone(new, 440.0, 1.0)[: len(got)][middle], atol=2e-3, rtol=0)


def test_what_the_new_rate_cannot_hold_is_gone():
    assert resample(tone(48000, 11000.0), 48000, 16000)[200:-200].abs().max() < 0.01


@pytest.mark.parametrize(("orig", "new"), [(3, 2), (441, 160), (147, 320)])
def test_both_ways_of_computing_agree(orig, new, monkeypatch):
    audio = torch.randn(2, 5001, generator=torch.Generator().manual_seed(0))
    by_table = resample(audio, orig, new)
    monkeypatch.setattr(module, "_MAX_TABLE", 0)
    monkeypatch.setattr(module, "_OUTPUTS_AT_ONCE", 1000)
    torch.testing.assert_close(resample(audio, orig, new), by_table, atol=1e-5, rtol=0)


def test_shapes_and_types_are_kept():
    assert resample(torch.zeros(2, 3, 300, dtype=torch.float64), 24000, 16000).shape == (2, 3, 200)
    assert resample(torch.zeros(30, dtype=torch.float64), 24000, 16000).dtype == torch.float64
    assert resample(np.zeros(300, dtype=np.float32), 24000, 16000).shape == (200,)
    assert resample(torch.zeros(0), 24000, 16000).shape == (0,)
    audio = torch.rand(10)
    assert resample(audio, 16000, 16000) is audio


@pytest.mark.parametrize("rates", [(0, 16000), (16000, -1)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(AudioError, match="positive"):
        resample(torch.zeros(10), *rates)
