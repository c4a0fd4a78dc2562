"""Mels of voices that nobody has: formants and pitch moved along the frequency axis, and a microphone's colour.

Vocal-tract length perturbation (Jaitly & Hinton, "Vocal Tract Length Perturbation Improves Speech Recognition", 2013)
on finished mels, with a smooth random curve over the bins. A few hundred people become as many voices as one likes;
nobody's embedding knows them, so they are heard from a prompt alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from fireside.audio.features import slaney_bin_hz, slaney_hz_bin

_WAVES = 4  # half cosines over the bins that a curve is made of


@dataclass(frozen=True)
class Disguise:
    """What is done to a voice. factor: of all frequencies; curve [n_mels]: nats added to every bin."""

    factor: float
    curve: np.ndarray

    @classmethod
    def draw(cls, rng: random.Random, warp: float, colour: float, n_mels: int) -> Disguise:
        """Random ones. warp: greatest change of frequencies, as a share; colour: deviation of the curve in nats."""
        places = (np.arange(n_mels) + 0.5) * np.pi / n_mels
        waves = [rng.gauss(0, colour / k) * np.cos(k * places) for k in range(1, _WAVES + 1)]
        return cls((1 + warp) ** rng.uniform(-1, 1), np.sum(waves, axis=0).astype(np.float32))

    def __call__(self, mel: np.ndarray) -> np.ndarray:
        """A mel [frames, n_mels], natural log, in disguise; bins that nothing is known of are like the nearest."""
        bins = mel.shape[1]
        source = slaney_hz_bin(slaney_bin_hz(np.arange(bins), bins) / self.factor, bins).clip(0, bins - 1)
        lower = np.floor(source).astype(int)
        upper = np.minimum(lower + 1, bins - 1)
        share = (source - lower).astype(mel.dtype)
        moved: np.ndarray = mel[:, lower] * (1 - share) + mel[:, upper] * share + self.curve
        return moved
