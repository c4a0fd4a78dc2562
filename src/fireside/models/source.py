"""The harmonic source of HiFT: sines at f0 and its multiples, plus noise, mixed to one excitation signal.

Follows the neural source-filter model (Wang et al. 2019, arXiv:1904.12088) as CosyVoice 1, 2 and 3 compute
it, with two changes: the phase is accumulated in float64, so that it can be carried from chunk to chunk
exactly, and the noise is a function of the sample's index, so that any length needs no buffer (CosyVoice 3
stops at 300 s).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fireside.models.config import VocoderConfig

_MASK = 0xFFFFFFFF
_STEP = 0x9E3779B1  # odd, near 2^32 / golden ratio: neighbours land far apart


def _mix_int(value: int) -> int:
    """The 32-bit finaliser of MurmurHash3 (public domain constants) on a Python integer."""
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK
    return value ^ (value >> 16)


def uniform_noise(seed: int, start: int, length: int, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Noise of samples `start .. start + length`, uniform in [0, 1): float32 `[length, channels]`.

    A pure function of (seed, sample index, channel): chunks of any size join to the same noise, and nothing
    is kept.
    """
    words = (seed & _MASK, (seed >> 32) & _MASK)
    keys = [_mix_int((_mix_int(words[0] ^ (c + 1) * _STEP & _MASK) + words[1]) & _MASK) for c in range(channels)]
    index = torch.arange(start, start + length, device=device, dtype=torch.int64).mul_(_STEP)
    x = index[:, None].add(torch.tensor(keys, device=device, dtype=torch.int64)).bitwise_and_(_MASK)
    x.bitwise_xor_(x >> 16).mul_(0x85EBCA6B).bitwise_and_(_MASK)
    x.bitwise_xor_(x >> 13).mul_(0xC2B2AE35).bitwise_and_(_MASK)
    x.bitwise_xor_(x >> 16)
    return (x >> 8).float().mul_(2.0**-24)  # 24 bits: every value is exact in float32 and below 1


def gaussian_noise(seed: int, start: int, length: int, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Noise of samples `start .. start + length`, standard normal: float32 `[length, channels]`.

    As pure a function as `uniform_noise`, whose values it turns into normal ones (Box & Muller 1958).
    """
    radius, angle = uniform_noise(seed, start, length, channels + channels % 2, device).chunk(2, dim=1)
    radius = torch.sqrt(-2 * torch.log1p(-radius))  # 1 - u lies in (0, 1]
    angle = angle * (2 * math.pi)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :channels]


def random_phase(seed: int, harmonics: int) -> Tensor:
    """Where the sines start, in cycles: float64 `[1, harmonics]`, uniform; the fundamental starts at 0."""
    phase = uniform_noise(seed, -1, 1, harmonics).double()  # the sample before the noise of sample 0
    phase[:, 0] = 0
    return phase


class HarmonicSource(nn.Module):
    """f0 per frame to an excitation signal. Parameters: `l_linear`, the mix of the harmonics."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.harmonics = config.nb_harmonics + 1
        self.noise_channels = 1 if config.source_noise == "shared" else self.harmonics
        self.frame_length = config.hop_length
        self.l_linear = nn.Linear(self.harmonics, 1)

    def phases(self, f0: Tensor, phase: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of every harmonic in every frame: cycles it goes through in it, and cycles gone through at its end.

        f0: `[batch, frames]` in Hz. phase: float64 `[batch, harmonics]` in cycles, where the harmonics stand
        before the first frame (None: at 0). Returns two float64 `[batch, frames, harmonics]`.
        """
        number = torch.arange(1, self.harmonics + 1, device=f0.device, dtype=torch.float64)
        steps = ((f0.double()[..., None] * number / self.config.sample_rate) % 1.0) * self.frame_length
        ends = torch.cumsum(steps, dim=1)
        return steps, ends if phase is None else ends + phase[:, None]

    def sines(self, f0: Tensor, phase: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sines of all harmonics, unit amplitude, and the phase after the last frame.

        f0, phase: as in `phases`; phase as this returned it for the frames before. Returns `[batch, frames *
        frame_length, harmonics]` and the phase.

        CosyVoice 2 and 3 sample the phase increments once per frame and accumulate them. CosyVoice 3 repeats
        each frame's value (`source_phase="frame"`: its sines are constant within a frame). CosyVoice 2 draws
        lines between the values, which stand for the frames' centres (`"line"`): half a frame at either end
        has no neighbour and is constant, so pieces of a signal need a frame of context to each side. Their
        random start phase lands on a sample that the down-sampling never reads, so it has no effect and does
        not exist here. `"sample"` accumulates sample by sample, as CosyVoice 1 does; with
        `source_band_limit`, without harmonics above half the sample rate. It agrees with `"frame"` at the
        frames' ends.
        """
        size = self.frame_length
        steps, ends = self.phases(f0, phase)
        if self.config.source_phase == "frame":
            sines = torch.sin(2 * torch.pi * (ends % 1.0)).float().repeat_interleave(size, dim=1)
            return sines, ends[:, -1] % 1.0
        start = (2 * torch.pi * (ends % 1.0)).float()[:, :, None]
        # Radians per sample within a frame, where float32 will do.
        slope = (2 * torch.pi / size * steps).float()[:, :, None]
        if self.config.source_phase == "line":
            within = torch.arange(size, device=f0.device, dtype=torch.float32)[:, None] - (size - 1) / 2
            before, after = slope.clone(), torch.zeros_like(slope)
            before[:, 0] = 0
            after[:, :-1] = slope[:, 1:]
            slope = torch.where(within < 0, before, after)
        else:
            within = torch.arange(1 - size, 1, device=f0.device, dtype=torch.float32)[:, None]
        sines = torch.sin(torch.addcmul(start, slope, within))
        if self.config.source_phase == "sample" and self.config.source_band_limit:
            number = torch.arange(1, self.harmonics + 1, device=f0.device)
            sines = sines * (f0[..., None] * number < self.config.sample_rate / 2).float()[:, :, None]
        return sines.flatten(1, 2), ends[:, -1] % 1.0

    def voiced(self, f0: Tensor) -> Tensor:
        """1 for the samples of voiced frames, 0 for the others: `[batch, frames * frame_length, 1]`."""
        voiced = (f0 > self.config.nsf_voiced_threshold).float()
        return voiced.repeat_interleave(self.frame_length, dim=1)[..., None]

    def forward(self, f0: Tensor, noise: Tensor, phase: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Excitation `[batch, frames * frame_length]` and the phase after it.

        noise: `[batch or 1, frames * frame_length, noise_channels]`; see `uniform_noise`, `gaussian_noise`.
        """
        config = self.config
        with torch.no_grad():
            sines, phase = self.sines(f0, phase)
            voiced = self.voiced(f0)
            loudness = voiced * config.nsf_sigma + (1 - voiced) * (config.nsf_alpha / 3)
            waves = sines.mul_(config.nsf_alpha * voiced).addcmul_(loudness, noise)
        return torch.tanh(self.l_linear(waves)).squeeze(-1), phase
