"""A voice's calibration: the flow's mel, bin by bin, brought to the levels that a recording of the person has.

The embedding of a new person says little of how loud each of their bands is and how far it swings. Both are measured
when a voice is made: the flow says again what is said in the recording, and a few quantiles of every mel bin are
compared. What it makes later goes through the same curve, frame by frame, so pieces equal the whole. That is quantile
mapping, known in speech recognition as histogram equalisation (A. de la Torre et al., IEEE Transactions on Speech and
Audio Processing 13(3), 2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEVELS = 7
"""Quantiles that are kept of every bin, the least and the greatest value among them."""

SHORTEST = 2.0
"""Seconds of speech below which quantiles say more of the words than of the voice."""

_LOUD = 0.9  # the quantile by which a recording is heard to fill a bin or not
_EMPTY, _WEAK = 2.5, 1.0  # nats below the flow's: nothing is there; and, beside such bins, the slope of the band's edge
_NARROWEST = 1e-4  # nats between levels, where a bin always had the same value


def measure(made: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Quantiles of what the flow made of a recording and of the recording itself, [2, LEVELS, n_mels] float32.

    made, true: mel [n_mels, frames], natural log. What lies between the two is smoothed over neighbouring bins. Bins
    that the recording does not fill, as above 8 kHz in one of 16 kHz, get twice the same: the flow's stay. The quietest
    moments are never made louder: pauses need not have the recording's noise.
    """
    levels = np.linspace(0, 1, LEVELS)
    source, target = (np.quantile(mel, levels, axis=1) for mel in (made, true))
    filled = filled_bins(made, true)
    bins = np.arange(len(filled))
    weights = np.exp(-0.5 * np.square(bins[:, None] - bins)) * filled
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    target = np.where(filled, source + (target - source) @ weights.T, source)
    target[0] = np.minimum(target[0], source[0])
    # Smoothing may turn the order of two near levels, and so may the rounding of quantiles that are equal.
    return np.maximum.accumulate(np.stack([source, target]), axis=1).astype(np.float32)


def filled_bins(made: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Which bins a recording fills, bool [n_mels], beside what the flow made of it; none on the slope of a band's edge.

    made, true: mel [n_mels, frames], natural log.
    """
    missing = np.quantile(made, _LOUD, axis=1) - np.quantile(true, _LOUD, axis=1)
    filled = missing <= _EMPTY
    for bins in (range(1, len(filled)), range(len(filled) - 2, -1, -1)):
        step = bins.step
        for place in bins:
            filled[place] &= filled[place - step] or missing[place] <= _WEAK
    return filled


@dataclass(frozen=True)
class Calibration:
    """The curve of every bin: what is added to a value is linear between the levels and constant beyond them.

    lowest [n_mels, 1]: added at the lowest level and below; starts, widths, steps [LEVELS - 1, n_mels, 1]: where a
    stretch between levels begins, how wide it is, and what it adds in all.
    """

    lowest: Tensor
    starts: Tensor
    widths: Tensor
    steps: Tensor

    @classmethod
    def of(cls, levels: np.ndarray, device: torch.device | str = "cpu") -> Calibration:
        """The curves through a voice's `calibration`, [2, levels, n_mels], for mels on a device."""
        source, target = torch.from_numpy(levels).to(device)[..., None]
        added = target - source
        return cls(added[0], source[:-1], source.diff(dim=0).clamp(min=_NARROWEST), added.diff(dim=0))

    def __call__(self, mel: Tensor) -> Tensor:
        """A mel [n_mels, frames], natural log, at the recording's levels; the same for a frame whatever is beside."""
        done = ((mel - self.starts) / self.widths).clamp_(0, 1).mul_(self.steps)
        out = mel + self.lowest
        for part in done:  # a sum over the stretches might add them in another order where there are other frames
            out = out + part
        return out
