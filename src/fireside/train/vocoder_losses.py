"""Objectives of the vocoder: adversarial, feature matching, truncated relativistic, spectral.

Sources: HiFi-GAN (arXiv:2010.05646) for the first two, TPRLS-GAN of HiFTNet (arXiv:2309.09493) for the third,
multi-resolution STFT of Parallel WaveGAN (arXiv:1910.11480) and log-mel L1 for the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fireside.audio.features import slaney_filterbank


def generator_loss(generated: list[Tensor]) -> Tensor:
    """Generated audio should be judged 1; a list of scores, one tensor per discriminator."""
    return torch.stack([(1 - scores).square().mean() for scores in generated]).sum()


def discriminator_loss(real: list[Tensor], generated: list[Tensor]) -> Tensor:
    """Real audio should be judged 1, generated audio 0."""
    pairs = zip(real, generated, strict=True)
    return torch.stack([(1 - r).square().mean() + g.square().mean() for r, g in pairs]).sum()


def feature_loss(real: list[list[Tensor]], generated: list[list[Tensor]]) -> Tensor:
    """Mean absolute difference of all feature maps, summed, times 2 as in HiFi-GAN."""
    pairs = [(r, g) for rs, gs in zip(real, generated, strict=True) for r, g in zip(rs, gs, strict=True)]
    return 2 * torch.stack([(r - g).abs().mean() for r, g in pairs]).sum()


def relativistic_loss(first: list[Tensor], second: list[Tensor], tau: float = 0.04) -> Tensor:
    """Truncated relativistic loss; (real, generated) for discriminators, (generated, real) for generators.

    Per discriminator, over the scores that lie below the median difference: their squared distance to it, at
    most `tau`. When no score lies below (all differences are equal), the distance is 0; the original gives
    NaN there.
    """
    losses = []
    for a, b in zip(first, second, strict=True):
        difference = a - b
        median = difference.median()
        below = (a < b + median).to(difference.dtype)
        distance = ((difference - median).square() * below).sum() / below.sum().clamp(min=1)
        losses.append(tau - F.relu(tau - distance))
    return torch.stack(losses).sum()


_FLOOR = 1e-3  # magnitudes below it are silence: their logarithm is mostly rounding


class SpectralDistance(nn.Module):
    """Distances of waveforms in several STFTs: log-mel, log magnitude and relative magnitude, all L1.

    Windows are in samples; the hop is a quarter window. Short windows see transients, long ones harmonics. Mel
    bands say how loud a region is; single bins also see its texture, which wide bands at high frequencies hide.

    With a `second` rendering of the same sentence (other noise in the source) the result is half the energy
    distance, (d(wave, target) + d(second, target) - d(wave, second)) / 2 (Gritsenko et al. 2020,
    arXiv:2008.01160): least when the renderings differ from each other as much as from the recording. Plain
    distances are least for one rendering in the middle of all possible ones: noise turned into tones.
    """

    def __init__(self, sample_rate: int, windows: tuple[int, ...], mels: tuple[int, ...]) -> None:
        super().__init__()
        self.windows = windows
        for window, count in zip(windows, mels, strict=True):
            self.register_buffer(f"window_{window}", torch.hann_window(window), persistent=False)
            bank = slaney_filterbank(sample_rate, window, count, 0.0, None)
            self.register_buffer(f"bank_{window}", torch.tensor(bank).float(), persistent=False)

    def forward(
        self,
        wave: Tensor,
        target: Tensor,
        windows: Sequence[int] | None = None,
        second: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean `mel`, `log` (both in natural log) and `linear` distance; waveforms `[batch, samples]`.

        windows: which of the module's to use, all when None.
        """
        waves = [wave, target] if second is None else [wave, target, second]
        totals: dict[str, list[Tensor]] = {"mel": [], "log": [], "linear": []}
        with torch.autocast(wave.device.type, enabled=False):
            stacked = torch.cat(waves).float()
            for size in windows or self.windows:
                window, bank = getattr(self, f"window_{size}"), getattr(self, f"bank_{size}")
                spectrum = torch.stft(stacked, size, size // 4, size, window, return_complex=True)
                magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
                scale = magnitude.chunk(len(waves))[1].mean()
                totals["mel"].append(_distance((bank @ magnitude).clamp(min=1e-5).log(), len(waves)))
                totals["log"].append(_distance(magnitude.clamp(min=_FLOOR).log(), len(waves)))
                totals["linear"].append(_distance(magnitude, len(waves)) / scale)
        return {name: torch.stack(values).mean() for name, values in totals.items()}


def _distance(features: Tensor, count: int) -> Tensor:
    """L1 of the first part to the second, or half the energy distance when there is a third."""
    wave, target, *second = features.chunk(count)
    direct = (wave - target).abs().mean()
    if not second:
        return direct
    return 0.5 * (direct + (second[0] - target).abs().mean() - (wave - second[0]).abs().mean())
