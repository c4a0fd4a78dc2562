"""Discriminators that train the vocoder: over periods of the waveform, and over magnitude spectrograms.

Sources: HiFi-GAN (Kong et al. 2020, arXiv:2010.05646) for the periods, UnivNet / HiFTNet (arXiv:2309.09493)
for the spectrograms. State-dict names are the official GAN checkpoints' (below `discriminator.`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fireside.models.causal import adapt_weight_norm, weight_norm
from fireside.models.config import DiscriminatorConfig

_SLOPE = 0.1
_QUIET = 1e-2  # magnitudes below it do not count

Judgement = tuple[Tensor, list[Tensor]]
"""Scores `[batch, n]` (1 is real, 0 is generated) and the feature maps of all layers."""


class PeriodDiscriminator(nn.Module):
    """Looks at every `period`-th sample, folded to an image `[batch, 1, n / period, period]`."""

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.period = period
        widths = (1, *channels)
        last = len(channels) - 1
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(widths[i], widths[i + 1], (5, 1), (1 if i == last else 3, 1), padding=(2, 0)))
            for i in range(len(channels))
        )
        self.conv_post = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> Judgement:
        """Judge waveforms `[batch, samples]`."""
        x = F.pad(wave[:, None], (0, -wave.shape[-1] % self.period), mode="reflect")
        x = x.unflatten(-1, (-1, self.period))
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), _SLOPE)
            features.append(x)
        x = self.conv_post(x)
        features.append(x)
        return x.flatten(1), features


class SpectrogramDiscriminator(nn.Module):
    """Looks at the magnitude of one STFT, `[batch, 1, frames, bins]`."""

    window: Tensor

    def __init__(self, n_fft: int, hop: int, win_length: int, channels: int, log_magnitude: bool = False) -> None:
        super().__init__()
        self.n_fft, self.hop, self.win_length = n_fft, hop, win_length
        self.log_magnitude = log_magnitude
        self.register_buffer("window", torch.hann_window(win_length), persistent=False)
        self.discriminators = nn.ModuleList(
            [
                weight_norm(nn.Conv2d(1, channels, (3, 9), padding=(1, 4))),
                *(weight_norm(nn.Conv2d(channels, channels, (3, 9), (1, 2), padding=(1, 4))) for _ in range(3)),
                weight_norm(nn.Conv2d(channels, channels, (3, 3), padding=(1, 1))),
            ]
        )
        self.out = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, wave: Tensor) -> Judgement:
        """Judge waveforms `[batch, samples]`."""
        spectrum = torch.stft(wave.float(), self.n_fft, self.hop, self.win_length, self.window, return_complex=True)
        x = spectrum.abs().transpose(1, 2)[:, None]
        if self.log_magnitude:
            x = torch.log(x + _QUIET) / 3  # about -1.5 (silence) to 1.5 (loud)
        features = []
        for conv in self.discriminators:
            x = F.leaky_relu(conv(x), _SLOPE)
            features.append(x)
        x = self.out(x)
        features.append(x)
        return x.flatten(1), features


class _Group(nn.Module):
    """Several discriminators under the official name."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(members)

    def forward(self, wave: Tensor) -> list[Judgement]:
        return [member(wave) for member in self.discriminators]


class Discriminators(nn.Module):
    """All discriminators, the periods first."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.mpd = _Group([PeriodDiscriminator(p, config.period_channels) for p in config.periods])
        shapes = zip(config.n_ffts, config.hops, config.win_lengths, strict=True)
        self.mrd = _Group(
            [SpectrogramDiscriminator(*shape, config.spectrum_channels, config.log_magnitude) for shape in shapes]
        )
        self.register_load_state_dict_pre_hook(_adapt_hook)

    def forward(self, wave: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Judge waveforms `[batch, samples]`: scores and feature maps of every discriminator."""
        judgements = [*self.mpd(wave), *self.mrd(wave)]
        return [scores for scores, _ in judgements], [features for _, features in judgements]


def _adapt_hook(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    adapt_weight_norm(module, state, prefix)
