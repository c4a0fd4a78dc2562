"""The harmonic source of HiFT: sines at f0 and its multiples, plus noise, mixed to one excitation signal.

Follows the neural source-filter model (Wang et al. 2019, arXiv:1904.12088) as CosyVoice 3 computes it, with
two changes: the phase is accumulated in float64, so that it can be carried from chunk to chunk exactly, and
the noise is a function of the sample's index, so that any length needs no buffer (the original stops at 300
s).
"""

from __future__ import annotations

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


class HarmonicSource(nn.Module):
    """f0 per frame to an excitation signal. Parameters: `l_linear`, the mix of the harmonics."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.harmonics = config.nb_harmonics + 1
        self.frame_length = config.hop_length
        self.l_linear = nn.Linear(self.harmonics, 1)

    def sines(self, f0: Tensor, phase: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sines of all harmonics, unit amplitude, and the phase after the last frame.

        f0: `[batch, frames]` in Hz. phase: float64 `[batch, harmonics]` in cycles, as returned by the call
        for the frames before (None: the start). Returns `[batch, frames * frame_length, harmonics]` and the
        phase.

        The original samples the phase increments once per frame, accumulates them, and repeats each frame's
        value (`source_phase="frame"`: its sines are constant within a frame). Its random start phase lands on
        a sample that the down-sampling never reads, so it has no effect and does not exist here.
        `source_phase="sample"` accumulates sample by sample instead, without
        harmonics above half the sample rate; both agree at the frames' ends.
        """
        rate, size = self.config.sample_rate, self.frame_length
        number = torch.arange(1, self.harmonics + 1, device=f0.device, dtype=torch.float64)
        step = (f0.double()[..., None] * number / rate) % 1.0
        ends = torch.cumsum(step * size, dim=1)
        if phase is not None:
            ends = ends + phase[:, None]
        if self.config.source_phase == "frame":
            sines = torch.sin(2 * torch.pi * (ends % 1.0)).float().repeat_interleave(size, dim=1)
        else:
            within = torch.arange(1 - size, 1, device=f0.device, dtype=torch.float32)[:, None]
            angle = (2 * torch.pi * step).float()[:, :, None]  # float32 will do within a frame
            start = (2 * torch.pi * (ends % 1.0)).float()[:, :, None]
            heard = (f0[..., None] * number < rate / 2).float()[:, :, None]
            sines = (torch.sin(torch.addcmul(start, angle, within)) * heard).flatten(1, 2)
        return sines, ends[:, -1] % 1.0

    def forward(self, f0: Tensor, noise: Tensor, phase: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Excitation `[batch, frames * frame_length]` and the phase after it.

        noise: `[batch or 1, frames * frame_length, harmonics]`; see `uniform_noise`.
        """
        config = self.config
        with torch.no_grad():
            sines, phase = self.sines(f0, phase)
            voiced = (f0 > config.nsf_voiced_threshold).float()
            voiced = voiced.repeat_interleave(self.frame_length, dim=1)[..., None]
            loudness = voiced * config.nsf_sigma + (1 - voiced) * (config.nsf_alpha / 3)
            waves = sines.mul_(config.nsf_alpha * voiced).addcmul_(loudness, noise)
        return torch.tanh(self.l_linear(waves)).squeeze(-1), phase
