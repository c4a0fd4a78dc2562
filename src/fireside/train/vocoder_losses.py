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


_HARMONICS_END = 4000.0  # Hz: above it voiced speech is mostly noise too
_FLOOR = 1e-3  # magnitudes below it are silence: their logarithm is mostly rounding
_TEXTURE_BANDS = 24
_TEXTURE_LAGS = (1, 4)  # bins
_FILTERS, _FILTER_SIZE = 16, 5


class SpectralDistance(nn.Module):
    """Distances of waveforms in several STFTs: log-mel, log magnitude and relative magnitude, all L1.

    Windows are in samples; the hop is a quarter window. Short windows see transients, long ones harmonics.
    Mel bands say how loud a region is; single bins also see its texture, which wide bands at high frequencies
    hide.

    With a `second` rendering of the same sentence (other noise in the source) the result is half the energy
    distance, (d(wave, target) + d(second, target) - d(wave, second)) / 2 (Gritsenko et al. 2020,
    arXiv:2008.01160): least when the renderings differ from each other as much as from the recording. Plain
    distances are least for one rendering in the middle of all possible ones: noise turned into tones.

    Distances of single bins also shrink what is hard to place, as harmonics at 2 to 8 kHz: half as loud costs less
    than as loud at the wrong place. `texture` compares how much a spectrogram changes from bin to bin and frame to
    frame, not where: in single bins by differences, in mel bands by the loudness of random filters' outputs, which
    tell textures apart as well as learnt ones do (Ustyuzhaninov et al. 2016, arXiv:1606.00021).
    """

    filters: Tensor

    def __init__(self, sample_rate: int, windows: tuple[int, ...], mels: tuple[int, ...]) -> None:
        super().__init__()
        self.windows, self.sample_rate = windows, sample_rate
        for window, count in zip(windows, mels, strict=True):
            self.register_buffer(f"window_{window}", torch.hann_window(window), persistent=False)
            bank = slaney_filterbank(sample_rate, window, count, 0.0, None)
            self.register_buffer(f"bank_{window}", torch.tensor(bank).float(), persistent=False)
        shape = (_FILTERS, 1, _FILTER_SIZE, _FILTER_SIZE)
        filters = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        filters = F.normalize((filters - filters.mean((2, 3), keepdim=True)).flatten(1)).view(shape)
        self.register_buffer("filters", filters, persistent=False)

    def forward(
        self,
        wave: Tensor,
        target: Tensor,
        windows: Sequence[int] | None = None,
        second: Tensor | None = None,
        voiced: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean `mel`, `log`, `texture` (in natural log) and `linear` distance; waveforms `[batch, samples]`.

        windows: which of the module's to use, all when None. voiced: 1 in voiced frames `[batch, frames]`;
        there, below 4 kHz, the renderings are not asked to differ: the speaker's harmonics are no noise.
        """
        waves = [wave, target] if second is None else [wave, target, second]
        totals: dict[str, list[Tensor]] = {"mel": [], "log": [], "linear": [], "texture": []}
        with torch.autocast(wave.device.type, enabled=False):
            stacked = torch.cat(waves).float()
            for size in windows or self.windows:
                window, bank = getattr(self, f"window_{size}"), getattr(self, f"bank_{size}")
                spectrum = torch.stft(stacked, size, size // 4, size, window, return_complex=True)
                magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
                scale = magnitude.chunk(len(waves))[1].mean()
                free = None
                if voiced is not None:
                    free = _free_frames(voiced, size, wave.shape[-1], magnitude.shape[-1])
                centres = torch.linspace(0, self.sample_rate / 2, magnitude.shape[1])
                bands = (bank @ centres) / bank.sum(1).clamp(min=1e-9)
                logarithm = magnitude.clamp(min=_FLOOR).log()
                mel = (bank @ magnitude).clamp(min=1e-5).log()
                for texture in (_changes(logarithm), _loudness(mel, self.filters)):
                    ours, theirs, *more = texture.chunk(len(waves))
                    totals["texture"] += [(each - theirs).abs().mean() for each in (ours, *more)]
                for name, features, hertz in (
                    ("mel", mel, bands),
                    ("log", logarithm, centres),
                    ("linear", magnitude / scale, centres),
                ):
                    totals[name].append(_distance(features, len(waves), free, hertz > _HARMONICS_END))
        return {name: torch.stack(values).mean() for name, values in totals.items()}


def _changes(logarithm: Tensor) -> Tensor:
    """Mean changes of a log spectrogram `[batch, bins, frames]` from bin to bin and frame to frame.

    `[batch, kinds, _TEXTURE_BANDS]`.
    """
    changes = [F.pad((logarithm[:, lag:] - logarithm[:, :-lag]).abs().mean(2), (0, lag)) for lag in _TEXTURE_LAGS]
    changes.append((logarithm[..., 1:] - logarithm[..., :-1]).abs().mean(2))
    return F.adaptive_avg_pool1d(torch.stack(changes, dim=1), _TEXTURE_BANDS)


def _loudness(mel: Tensor, filters: Tensor) -> Tensor:
    """Mean magnitude of what filters make of a log mel `[batch, bands, frames]`: `[batch, filters, at most
    _TEXTURE_BANDS]`."""
    mixed = F.conv2d(mel[:, None], filters).abs().mean(3)
    return F.adaptive_avg_pool1d(mixed, min(mixed.shape[2], _TEXTURE_BANDS))


def _free_frames(voiced: Tensor, window: int, samples: int, frames: int) -> Tensor:
    """1 for the STFT frames whose whole window is unvoiced: `[batch, frames]`."""
    per_frame = samples // voiced.shape[1]
    reach = -(-window // (2 * per_frame))
    near = F.max_pool1d(voiced[:, None], 2 * reach + 1, 1, reach)[:, 0]
    centres = torch.arange(frames, device=voiced.device) * (window // 4)
    return 1 - near[:, (centres // per_frame).clamp(max=voiced.shape[1] - 1)]


def _distance(features: Tensor, count: int, free: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """L1 of the first part to the second, or half the energy distance when there is a third.

    features: `[count * batch, bands, frames]`. free `[batch, frames]` and high `[bands]`: where the
    renderings are asked to differ, everywhere when None.
    """
    wave, target, *second = features.chunk(count)
    direct = (wave - target).abs().mean()
    if not second:
        return direct
    apart = (wave - second[0]).abs()
    if free is not None and high is not None:
        apart = apart * torch.maximum(free[:, None], high.to(free.dtype)[:, None])
    return 0.5 * (direct + (second[0] - target).abs().mean() - apart.mean())
