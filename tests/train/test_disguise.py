"""Voices of nobody: frequencies move by a factor, time does not, and a curve colours the bins."""

import random

import numpy as np
import pytest

from fireside.audio.features import slaney_bin_hz, slaney_filterbank, slaney_hz_bin
from fireside.train.disguise import Disguise

N_MELS = 80


def test_bins_are_centred_where_their_filters_are():
    bank = slaney_filterbank(24000, 24000, N_MELS)  # a bin for every Hz
    centres = slaney_bin_hz(np.arange(N_MELS), N_MELS)
    assert np.abs(bank.argmax(1) - centres).max() <= 1
    np.testing.assert_allclose(slaney_hz_bin(centres, N_MELS), np.arange(N_MELS), atol=1e-9)


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.2])
def test_a_peak_moves_by_the_factor(factor):
    mel = np.full((3, N_MELS), -8.0, np.float32)
    mel[1, 40] = 0.0
    moved = Disguise(factor, np.zeros(N_MELS, np.float32))(mel)
    peak = moved[1].argmax()
    there = slaney_bin_hz(np.array([40.0]), N_MELS) * factor
    assert abs(float(slaney_hz_bin(there, N_MELS)[0]) - peak) <= 0.5
    assert moved.shape == mel.shape
    assert (moved[[0, 2]] == -8.0).all()


def test_the_curve_is_added_to_every_frame():
    disguise = Disguise.draw(random.Random(0), warp=0.0, colour=0.4, n_mels=N_MELS)
    mel = np.random.default_rng(0).normal(size=(5, N_MELS)).astype(np.float32)
    np.testing.assert_allclose(disguise(mel) - mel, np.broadcast_to(disguise.curve, mel.shape), atol=1e-5)
    assert np.abs(np.diff(disguise.curve)).max() < 0.2
    assert disguise.curve.std() > 0.05


def test_draws_stay_within_the_warp():
    rng = random.Random(0)
    factors = [Disguise.draw(rng, 0.15, 0.4, N_MELS).factor for _ in range(300)]
    assert 1 / 1.15 <= min(factors) < 0.9
    assert 1.1 < max(factors) <= 1.15
