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


class SpectralDistance(nn.Module):
    """Distance of two waveforms in several STFTs: log-mel L1, and relative L1 of linear magnitudes.

    Windows are in samples; the hop is a quarter window. Short windows see transients, long ones harmonics.
    """

    def __init__(self, sample_rate: int, windows: tuple[int, ...], mels: tuple[int, ...]) -> None:
        super().__init__()
        self.windows = windows
        for window, count in zip(windows, mels, strict=True):
            self.register_buffer(f"window_{window}", torch.hann_window(window), persistent=False)
            bank = slaney_filterbank(sample_rate, window, count, 0.0, None)
            self.register_buffer(f"bank_{window}", torch.tensor(bank).float(), persistent=False)

    def forward(self, wave: Tensor, target: Tensor, windows: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Mean log-mel L1 (natural log) and mean relative magnitude distance; waveforms `[batch, samples]`.

        windows: which of the module's to use, all when None.
        """
        mel_losses, linear_losses = [], []
        both = torch.cat([wave, target]).float()
        for size in windows or self.windows:
            window, bank = getattr(self, f"window_{size}"), getattr(self, f"bank_{size}")
            spectrum = torch.stft(both, size, size // 4, size, window, return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()
            magnitude = (power + 1e-9).sqrt()
            ours, theirs = magnitude.chunk(2)
            linear_losses.append((ours - theirs).abs().mean() / theirs.mean())
            with torch.autocast(wave.device.type, enabled=False):
                log_mel = (bank @ magnitude).clamp(min=1e-5).log()
            ours, theirs = log_mel.chunk(2)
            mel_losses.append((ours - theirs).abs().mean())
        return torch.stack(mel_losses).mean(), torch.stack(linear_losses).mean()
