"""HiFT vocoder of CosyVoice: mel to f0, harmonic source, and a decoder that ends in an inverse STFT.

Sources: HiFTNet (Li et al. 2023, arXiv:2309.09493), iSTFTNet (Kaneko et al. 2022, arXiv:2203.02395), Snake
(Ziyin et al. 2020, arXiv:2006.08195). Module names are the official state dict's.

In the causal form (CosyVoice 3, hearth) everything looks only at the past, except two first convolutions: f0
looks 3 mel frames ahead, the decoder `conv_pre_look_right`. All parts take optional `Tails`, so the
incremental vocoder runs this same code. In the centred form (CosyVoice 1 and 2) every convolution looks to
both sides, and a frame's audio depends on `reach` frames on each.
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
from fireside.models.centred import CentredConv1d, CentredUpsample1d
from fireside.models.config import VocoderConfig
from fireside.models.source import HarmonicSource, gaussian_noise, random_phase, uniform_noise

_LOUDEST = math.log(100.0)
_CONV_PRE = 7  # kernel of the centred form's first convolution
_CONV_POST = 7

Conv = CausalConv1d | CentredConv1d


def _conv(causal: bool, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> Conv:
    """A convolution that keeps the length, and looks back or to both sides."""
    kind = CausalConv1d if causal else CentredConv1d
    return kind(in_channels, out_channels, kernel_size, dilation=dilation)


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
    """Residual pairs of a dilated and a plain convolution, Snake before each."""

    def __init__(self, channels: int, kernel_size: int, dilations: Iterable[int], causal: bool = True) -> None:
        super().__init__()
        dilations = tuple(dilations)
        self.convs1 = nn.ModuleList(
            weight_norm(_conv(causal, channels, channels, kernel_size, dilation=d)) for d in dilations
        )
        self.convs2 = nn.ModuleList(weight_norm(_conv(causal, channels, channels, kernel_size)) for _ in dilations)
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
    """Mel to f0 in Hz. Runs in its own parameters' precision: f0 errors add up in the source's phase.

    look_right: mel frames that must follow those asked for. reach: of the centred form, on how many frames to
    each side a frame's f0 depends.
    """

    def __init__(self, n_mels: int, channels: int, layers: int = 5, causal: bool = True) -> None:
        super().__init__()
        self.look_right = 3 if causal else 0
        self.reach = layers
        modules: list[nn.Module] = []
        for layer in range(layers):
            if causal and layer == 0:
                conv: Conv = CausalConv1d(n_mels, channels, self.look_right + 1, left=0)
            else:
                conv = _conv(causal, n_mels if layer == 0 else channels, channels, 3)
            modules += [weight_norm(conv), nn.ELU()]
        self.condnet = nn.Sequential(*modules)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor, tails: Tails | None = None) -> Tensor:
        """`[batch, n_mels, frames + look_right]` to `[batch, frames]`; as many once `tails` are filled."""
        x = mel.to(self.classifier.weight.dtype)
        for layer in self.condnet:
            x = layer(x, tails) if isinstance(layer, Conv) else layer(x)
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
        self.conv_pre = weight_norm(
            CausalConv1d(config.n_mels, width[0], config.conv_pre_look_right + 1, left=0)
            if config.causal
            else CentredConv1d(config.n_mels, width[0], _CONV_PRE)
        )
        upsample = CausalUpsample1d if config.causal else CentredUpsample1d
        self.ups = nn.ModuleList(
            weight_norm(upsample(width[i], width[i + 1], kernels[i], rates[i])) for i in range(len(rates))
        )
        # How many STFT frames of the source fall on one frame of stage i.
        strides = [math.prod(rates[i + 1 :]) for i in range(len(rates))]
        self.source_downs = nn.ModuleList(
            self._source_down(spectrum, width[i + 1], stride) for i, stride in enumerate(strides)
        )
        self.source_resblocks = nn.ModuleList(
            ResBlock(width[i + 1], kernel, dilations, config.causal)
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
            ResBlock(width[i + 1], kernel, dilations, config.causal)
            for i in range(len(rates))
            for kernel, dilations in blocks
        )
        gains = spectrum // 2 if config.source_gains else 0
        self.conv_post = weight_norm(_conv(config.causal, width[-1], spectrum + gains, _CONV_POST))
        self.f0_predictor = F0Predictor(config.n_mels, config.f0_channels, causal=config.causal)
        self.stft = ShortTimeFourier(config.istft_n_fft, config.istft_hop)
        self.register_load_state_dict_pre_hook(_adapt_hook)

    def _source_down(self, channels: int, width: int, stride: int) -> Conv:
        """The source's spectrum at the rate of a stage with `stride` STFT frames per frame."""
        if stride == 1:
            return _conv(self.config.causal, channels, width, 1)
        if self.config.causal:
            return CausalConv1d(channels, width, 2 * stride, stride=stride, left=stride - 1)
        return CentredConv1d(channels, width, 2 * stride, stride=stride)

    @property
    def look_right(self) -> int:
        """Mel frames that must follow a frame before its audio can be made."""
        if self.config.causal:
            return max(self.config.ahead, self.f0_predictor.look_right + 1)
        return self.f0_predictor.reach + 1 + self.reach

    @property
    def reach(self) -> int:
        """Of the centred form: mel frames to each side on which a frame's audio depends, its source given.

        The source of a frame depends on the f0 of the frames beside it, and that on the predictor's `reach`.
        """
        config = self.config
        rate = 1
        reach = float(_CONV_PRE // 2)  # all in mel frames
        for i, factor in enumerate(config.upsample_rates):
            rate *= factor
            reach += (config.upsample_kernel_sizes[i] + factor) / 2 / rate
            # A strided convolution of the source covers two frames of its stage; an STFT frame, four hops.
            spectrum = config.istft_n_fft * rate / config.hop_length
            source = 2 + spectrum + _residual_reach(
                config.source_resblock_kernel_sizes[i], config.source_resblock_dilation_sizes[i]
            )  # fmt: skip
            blocks = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
            reach = max(reach, source / rate) + max(_residual_reach(*block) for block in blocks) / rate
        return math.ceil(reach + (_CONV_POST // 2 + 1) / rate + config.istft_n_fft / config.hop_length)

    def remove_weight_norm(self) -> None:
        """Fold the weight normalisation into the weights, for inference."""
        fold_weight_norm(self)

    def for_inference(self) -> HiFT:
        """Evaluation mode, weight norm folded, f0 in the configured precision. Returns self."""
        self.eval().requires_grad_(False)
        self.remove_weight_norm()
        for up in self.ups:
            if isinstance(up, CausalUpsample1d):
                up.freeze()
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

        mel: `[batch, n_mels, n + config.ahead]` (only `n` once `tails` hold the look-ahead). source:
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
            # Clamped first: exp must not overflow in training.
            loudness, phase, *gains = x.float().split(self.config.istft_n_fft // 2 + 1, dim=1)
            loudness = torch.exp(loudness.clamp(max=_LOUDEST))
            angle = torch.sin(phase) if self.config.istft_phase == "sine" else phase
            spectrum = torch.cat([loudness * torch.cos(angle), loudness * torch.sin(angle)], dim=1)
            if gains:  # harmonics stand where the source has them, without being learned
                spectrum = torch.addcmul(spectrum, torch.exp(gains[0].clamp(max=_LOUDEST)).repeat(1, 2, 1), source)
            return spectrum

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

        Without `final`, which the causal form alone can do, the last `config.ahead` frames are only context and the
        last whole frame, which the edge of the inverse STFT has touched, is left out, as in the original.
        """
        spectrum = self.source_spectrum(source)
        if final:
            return self.waveform(self.spectrum(F.pad(mel, (0, self.config.ahead)), spectrum))
        if not self.config.causal:
            raise ValueError("a vocoder that is not causal makes audio of whole mels only (final=True)")
        per_frame = self.config.hop_length // self.config.istft_hop
        spectrum = spectrum[..., : spectrum.shape[-1] - per_frame * self.config.ahead]
        return self.waveform(self.spectrum(mel, spectrum))[:, : -self.config.hop_length]

    def make_noise(self, seed: int | None, start: int, length: int, device: torch.device | str = "cpu") -> Tensor:
        """The source's noise of samples `start .. start + length`: `[1, length, harmonics or 1]`; None: zeros."""
        channels = self.m_source.noise_channels
        if seed is None:
            return torch.zeros(1, length, channels, device=device)
        make = uniform_noise if self.config.source_noise == "uniform" else gaussian_noise
        return make(seed, start, length, channels, device)[None]

    def start_phase(self, seed: int | None, device: torch.device | str = "cpu") -> Tensor | None:
        """Where the sines start, in cycles: float64 `[1, harmonics]`, or None for 0."""
        if seed is None or not self.config.source_random_start:
            return None
        return random_phase(seed, self.m_source.harmonics).to(device)

    def forward(
        self,
        mel: Tensor,
        *,
        seed: int | None = 0,
        noise: Tensor | None = None,
        phase: Tensor | None = None,
        cache_source: Tensor | None = None,
        final: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Waveform `[batch, samples]`, f0 `[batch, frames]` and source `[batch, samples]` of a whole mel.

        mel: `[batch, n_mels, frames]`. noise: `[batch or 1, samples, harmonics or 1]`, and phase: float64 `[batch
        or 1, harmonics]` in cycles, where the sines start; None makes them from `seed`, and a seed of None
        makes none. cache_source: `[batch, n]`, replaces the first n samples of the source.
        """
        f0 = self.predict_f0(mel, final=final)
        samples = f0.shape[1] * self.config.hop_length
        noise = self.make_noise(seed, 0, samples, mel.device) if noise is None else noise[:, :samples]
        phase = self.start_phase(seed, mel.device) if phase is None else phase
        with torch.autocast(mel.device.type, enabled=False):
            source, _ = self.m_source(f0, noise, phase)
        if cache_source is not None:
            source = torch.cat([cache_source, source[:, cache_source.shape[1] :]], dim=1)
        wave = self.decode(mel[..., : f0.shape[1]], source, final=final)
        return wave, f0, source


def _residual_reach(kernel_size: int, dilations: Iterable[int]) -> int:
    """Samples to each side on which a centred ResBlock's output depends."""
    return sum((kernel_size - 1) // 2 * (dilation + 1) for dilation in dilations)


def _adapt_hook(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    adapt_weight_norm(module, state, prefix)
    for up in cast(HiFT, module).ups:
        if isinstance(up, CausalUpsample1d):
            up.frozen_kernels = None  # they were of the old weights
