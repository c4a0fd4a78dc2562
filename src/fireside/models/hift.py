"""Causal HiFT vocoder of CosyVoice 3: mel to f0, harmonic source, and a decoder that ends in an inverse STFT.

Sources: HiFTNet (Li et al. 2023, arXiv:2309.09493), iSTFTNet (Kaneko et al. 2022, arXiv:2203.02395), Snake
(Ziyin et al. 2020, arXiv:2006.08195). Module names are the official state dict's.

Everything looks only at the past, except two first convolutions: f0 looks `f0_look_right` mel frames ahead,
the decoder `conv_pre_look_right`. All parts take optional `Tails`, so the incremental vocoder runs this same
code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fireside.models.causal import (
    CausalConv1d,
    CausalUpsample1d,
    Tails,
    adapt_weight_norm,
    fold_weight_norm,
    weight_norm,
)
from fireside.models.config import VocoderConfig
from fireside.models.source import HarmonicSource, uniform_noise

_LOUDEST = math.log(100.0)


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, alpha per channel; input `[batch, channels, n]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation."""
        alpha = self.alpha[:, None].to(x.dtype)
        wave = torch.sin(x * alpha)
        return torch.addcmul(x, wave * (1.0 / (alpha + 1e-9)), wave)


class ResBlock(nn.Module):
    """Residual pairs of a dilated and a plain causal convolution, Snake before each."""

    def __init__(self, channels: int, kernel_size: int, dilations: Iterable[int]) -> None:
        super().__init__()
        dilations = tuple(dilations)
        self.convs1 = nn.ModuleList(
            weight_norm(CausalConv1d(channels, channels, kernel_size, dilation=d)) for d in dilations
        )
        self.convs2 = nn.ModuleList(weight_norm(CausalConv1d(channels, channels, kernel_size)) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor, tails: Tails | None = None) -> Tensor:
        """`[batch, channels, n]` to the same shape."""
        for conv1, conv2, act1, act2 in zip(
            self.convs1, self.convs2, self.activations1, self.activations2, strict=True
        ):
            x = x + conv2(act2(conv1(act1(x), tails)), tails)
        return x


class F0Predictor(nn.Module):
    """Mel to f0 in Hz. Runs in its own parameters' precision: f0 errors add up in the source's phase."""

    look_right = 3

    def __init__(self, n_mels: int, channels: int, layers: int = 5) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for layer in range(layers):
            conv = (
                CausalConv1d(n_mels, channels, self.look_right + 1, left=0)
                if layer == 0
                else CausalConv1d(channels, channels, 3)
            )
            modules += [weight_norm(conv), nn.ELU()]
        self.condnet = nn.Sequential(*modules)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor, tails: Tails | None = None) -> Tensor:
        """`[batch, n_mels, frames + look_right]` to `[batch, frames]`; as many once `tails` are filled."""
        x = mel.to(self.classifier.weight.dtype)
        for layer in self.condnet:
            x = layer(x, tails) if isinstance(layer, CausalConv1d) else layer(x)
        return self.classifier(x.transpose(1, 2)).squeeze(-1).abs().to(mel.dtype)


class ShortTimeFourier(nn.Module):
    """Hann-windowed STFT and its inverse as small matrices, without centring: the callers pad and trim."""

    forward_basis: Tensor
    inverse_basis: Tensor
    window_square: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop, self.bins = n_fft, hop, n_fft // 2 + 1
        window = torch.hann_window(n_fft, periodic=True, dtype=torch.float64)
        spectrum = torch.fft.rfft(torch.diag(window), dim=1)
        self._constant("forward_basis", torch.cat([spectrum.real, spectrum.imag], dim=1))
        eye = torch.eye(self.bins, dtype=torch.float64)
        real = torch.fft.irfft(torch.complex(eye, torch.zeros_like(eye)), n=n_fft, dim=1)
        imag = torch.fft.irfft(torch.complex(torch.zeros_like(eye), eye), n=n_fft, dim=1)
        self._constant("inverse_basis", torch.cat([real, imag]) * window)
        self._constant("window_square", window.square())

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.float(), persistent=False)

    def analyse(self, signal: Tensor) -> Tensor:
        """`[batch, samples]` to `[batch, 2 * bins, frames]`, real parts then imaginary ones."""
        return (signal.unfold(-1, self.n_fft, self.hop) @ self.forward_basis).transpose(1, 2)

    def overlap(self, spectrum: Tensor) -> Tensor:
        """`[batch, 2 * bins, frames]` to windowed frames summed, `[batch, (frames - 1) * hop + n_fft]`."""
        return self._sum_frames(spectrum.transpose(1, 2) @ self.inverse_basis)

    def envelope(self, frames: int) -> Tensor:
        """What `overlap` of `frames` frames must be divided by: `[(frames - 1) * hop + n_fft]`."""
        return self._sum_frames(self.window_square.expand(1, frames, -1))[0]

    def _sum_frames(self, frames: Tensor) -> Tensor:
        parts = frames.unflatten(-1, (self.n_fft // self.hop, self.hop))
        count = parts.shape[2]
        total = sum(F.pad(parts[:, :, i], (0, 0, i, count - 1 - i)) for i in range(count))
        return cast(Tensor, total).flatten(1)


class HiFT(nn.Module):
    """The vocoder. One-shot use: `wav, f0, source = model(mel, seed=...)`; for pieces see `fireside.engine.vocoder`."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        rates, kernels = config.upsample_rates, config.upsample_kernel_sizes
        width = [config.base_channels // 2**i for i in range(len(rates) + 1)]
        spectrum = config.istft_n_fft + 2
        self.m_source = HarmonicSource(config)
        self.conv_pre = weight_norm(CausalConv1d(config.n_mels, width[0], config.conv_pre_look_right + 1, left=0))
        self.ups = nn.ModuleList(
            weight_norm(CausalUpsample1d(width[i], width[i + 1], kernels[i], rates[i])) for i in range(len(rates))
        )
        # How many STFT frames of the source fall on one frame of stage i.
        strides = [math.prod(rates[i + 1 :]) for i in range(len(rates))]
        self.source_downs = nn.ModuleList(
            CausalConv1d(spectrum, width[i + 1], 2 * s, stride=s, left=s - 1)
            if s > 1
            else CausalConv1d(spectrum, width[i + 1], 1)
            for i, s in enumerate(strides)
        )
        self.source_resblocks = nn.ModuleList(
            ResBlock(width[i + 1], kernel, dilations)
            for i, (kernel, dilations) in enumerate(
                zip(
                    config.source_resblock_kernel_sizes,
                    config.source_resblock_dilation_sizes,
                    strict=True,
                )
            )
        )
        blocks = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
        self.resblocks = nn.ModuleList(
            ResBlock(width[i + 1], kernel, dilations) for i in range(len(rates)) for kernel, dilations in blocks
        )
        self.conv_post = weight_norm(CausalConv1d(width[-1], spectrum, 7))
        self.f0_predictor = F0Predictor(config.n_mels, config.f0_channels)
        self.stft = ShortTimeFourier(config.istft_n_fft, config.istft_hop)
        self.register_load_state_dict_pre_hook(_adapt_hook)

    @property
    def look_right(self) -> int:
        """Mel frames that must follow a frame before its audio can be made."""
        return max(self.config.conv_pre_look_right, self.f0_predictor.look_right + 1)

    def remove_weight_norm(self) -> None:
        """Fold the weight normalisation into the weights, for inference."""
        fold_weight_norm(self)

    def for_inference(self) -> HiFT:
        """Evaluation mode, weight norm folded, f0 in the configured precision. Returns self."""
        self.eval().requires_grad_(False)
        self.remove_weight_norm()
        for up in self.ups:
            cast(CausalUpsample1d, up).freeze()
        if self.config.f0_float64:
            self.f0_predictor.double()
        return self

    def predict_f0(self, mel: Tensor, *, final: bool = True) -> Tensor:
        """f0 in Hz, `[batch, frames]`; without `final` the last `look_right` mel frames are only context."""
        with torch.autocast(mel.device.type, enabled=False):
            mel = mel.float()
            return self.f0_predictor(F.pad(mel, (0, self.f0_predictor.look_right)) if final else mel)

    def spectrum(self, mel: Tensor, source: Tensor, tails: Tails | None = None, *, first: bool = True) -> Tensor:
        """The decoder up to the waveform's spectrum: `[batch, 2 * bins, frames]`, real, then imaginary.

        mel: `[batch, n_mels, n + conv_pre_look_right]` (only `n` once `tails` hold the look-ahead). source:
        STFT of the source, `[batch, 2 * bins, n * per_frame + 1]`, without the `+ 1` when not `first`.
        """
        x = self.conv_pre(mel, tails)
        count = len(self.config.resblock_kernel_sizes)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, self.config.lrelu_slope), tails)
            if i == len(self.ups) - 1 and first:
                x = F.pad(x, (1, 0), mode="reflect")  # the STFT has one frame more than the signal has hops
            x = x + self.source_resblocks[i](self.source_downs[i](source, tails), tails)
            blocks = cast(list[ResBlock], list(self.resblocks[i * count : (i + 1) * count]))
            mixed = blocks[0](x, tails)
            for block in blocks[1:]:
                mixed = mixed + block(x, tails)
            x = mixed / count
        x = self.conv_post(F.leaky_relu(x), tails)  # the default slope here is the original's
        with torch.autocast(x.device.type, enabled=False):  # exp, sin and the inverse STFT need float32
            loudness, phase = x.float().chunk(2, dim=1)
            loudness = torch.exp(loudness.clamp(max=_LOUDEST))  # clamped first: exp must not overflow in training
            angle = torch.sin(phase) if self.config.istft_phase == "sine" else phase
            return torch.cat([loudness * torch.cos(angle), loudness * torch.sin(angle)], dim=1)

    def source_spectrum(self, source: Tensor) -> Tensor:
        """Centred STFT of a whole source `[batch, samples]`, edges reflected."""
        half = self.stft.n_fft // 2
        with torch.autocast(source.device.type, enabled=False):
            return self.stft.analyse(F.pad(source.float()[:, None], (half, half), mode="reflect")[:, 0])

    def waveform(self, spectrum: Tensor) -> Tensor:
        """Inverse of a whole centred STFT: `[batch, (frames - 1) * hop]`, limited to `audio_limit`."""
        with torch.autocast(spectrum.device.type, enabled=False):
            half = self.stft.n_fft // 2
            wave = self.stft.overlap(spectrum)[:, half:-half]
            wave = wave / self.stft.envelope(spectrum.shape[-1])[half:-half]
            return wave.clamp(-self.config.audio_limit, self.config.audio_limit)

    def decode(self, mel: Tensor, source: Tensor, *, final: bool = True) -> Tensor:
        """mel `[batch, n_mels, frames]` and source `[batch, frames * hop_length]` to a waveform.

        Without `final`, the last `conv_pre_look_right` frames are only context and the last whole frame,
        which the edge of the inverse STFT has touched, is left out, as in the original.
        """
        spectrum = self.source_spectrum(source)
        if final:
            return self.waveform(self.spectrum(F.pad(mel, (0, self.config.conv_pre_look_right)), spectrum))
        per_frame = self.config.hop_length // self.config.istft_hop
        spectrum = spectrum[..., : spectrum.shape[-1] - per_frame * self.config.conv_pre_look_right]
        return self.waveform(self.spectrum(mel, spectrum))[:, : -self.config.hop_length]

    def make_noise(self, seed: int, start: int, length: int, device: torch.device | str = "cpu") -> Tensor:
        """The source's noise of samples `start .. start + length`: `[1, length, harmonics]`."""
        return uniform_noise(seed, start, length, self.m_source.harmonics, device)[None]

    def forward(
        self, mel: Tensor, *, seed: int = 0, noise: Tensor | None = None, final: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Waveform `[batch, samples]`, f0 `[batch, frames]` and source `[batch, samples]` of a whole mel.

        mel: `[batch, n_mels, frames]`. noise: `[batch or 1, samples, harmonics]`; None makes it from `seed`.
        """
        f0 = self.predict_f0(mel, final=final)
        samples = f0.shape[1] * self.config.hop_length
        noise = self.make_noise(seed, 0, samples, mel.device) if noise is None else noise[:, :samples]
        with torch.autocast(mel.device.type, enabled=False):
            source, _ = self.m_source(f0, noise)
        wave = self.decode(mel[..., : f0.shape[1]], source, final=final)
        return wave, f0, source


def _adapt_hook(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    adapt_weight_norm(module, state, prefix)
    for up in cast(HiFT, module).ups:
        cast(CausalUpsample1d, up).frozen_kernels = None  # they were of the old weights
