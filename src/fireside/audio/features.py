"""Spectral features: the flow's mel, Whisper's log-mel for the speech tokenizer, Kaldi's fbank for the
speaker.

Every table (window, filter bank) is computed here from its own complete set of parameters and kept per
instance, so that two configurations in one process cannot see each other's tables.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fireside.errors import AudioError

WHISPER_RATE = 16000
"""Sample rate of `whisper_log_mel` and `kaldi_fbank`, in Hz."""

_WHISPER_FFT, _WHISPER_HOP = 400, 160
_KALDI_FRAME, _KALDI_HOP, _KALDI_FFT, _KALDI_BINS = 400, 160, 512, 80
_KALDI_LOW_HZ, _KALDI_PREEMPHASIS, _KALDI_FLOOR = 20.0, 0.97, 1.1920928955078125e-07

# Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above.
_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_BREAK_MEL = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
_SLANEY_LOG_STEP = math.log(6.4) / 27.0


class MelSpectrogram(nn.Module):
    """Natural log of a mel spectrogram, as the CosyVoice flows and vocoders use it.

    The audio is padded by reflection with (n_fft - hop_length) / 2 samples at each end, so that `samples`
    give `samples // hop_length` frames; magnitudes are `sqrt(re² + im² + 1e-9)`, and the logarithm's floor is
    1e-5.

    Args:
        sample_rate: of the audio, in Hz.
        n_fft: length of the Fourier transform, in samples.
        hop_length: samples from one frame to the next.
        win_length: length of the Hann window, in samples; n_fft when None.
        n_mels: number of mel bands.
        fmin: lowest frequency of the bands, in Hz.
        fmax: highest frequency of the bands, in Hz; half the sample rate when None.
    """

    window: Tensor
    filterbank: Tensor

    def __init__(
        self,
        sample_rate: int = 24000,
        n_fft: int = 1920,
        hop_length: int = 480,
        win_length: int | None = None,
        n_mels: int = 80,
        fmin: float = 0.0,
        fmax: float | None = None,
    ) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.win_length = win_length or n_fft
        self.n_mels = n_mels
        bank = slaney_filterbank(sample_rate, n_fft, n_mels, fmin, fmax)
        self.register_buffer("window", torch.hann_window(self.win_length), persistent=False)
        self.register_buffer("filterbank", torch.tensor(bank), persistent=False)

    @classmethod
    def from_config(cls, config: Any) -> MelSpectrogram:
        """Build it from a MelConfig, or any object with the constructor's fields as attributes."""
        return cls(
            sample_rate=config.sample_rate,
            n_fft=config.n_fft,
            hop_length=config.hop_length,
            win_length=config.win_length,
            n_mels=config.n_mels,
            fmin=config.fmin,
            fmax=config.fmax,
        )

    def forward(self, audio: Tensor) -> Tensor:
        """Audio [batch, samples] in -1..1 to log mel [batch, n_mels, frames].

        Raises AudioError when the audio is too short to be padded by reflection.
        """
        pad = (self.n_fft - self.hop_length) // 2
        if audio.shape[-1] <= pad:
            raise AudioError(
                f"The audio is too short: {audio.shape[-1]} samples at {self.sample_rate} Hz; "
                f"more than {pad} are needed."
            )
        padded = nn.functional.pad(audio.unsqueeze(1), (pad, pad), mode="reflect").squeeze(1)
        spectrum = torch.stft(
            padded,
            self.n_fft,
            hop_length=self.hop_length,
            win_length=self.win_length,
            window=self.window.to(audio.dtype),
            center=False,
            return_complex=True,
        )
        magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
        return torch.log(torch.clamp(self.filterbank.to(audio.dtype) @ magnitude, min=1e-5))


def whisper_log_mel(audio: Tensor | np.ndarray, n_mels: int = 128) -> Tensor:
    """Whisper's log-mel (Radford et al. 2022): 16 kHz audio [..., samples] to [..., n_mels, samples // 160].

    The floor is 8 (in log10 of power) below the loudest bin of each utterance, so that a row of a batch does
    not depend on its neighbours. Raises AudioError for 200 samples or fewer.
    """
    audio = torch.as_tensor(audio)
    if audio.shape[-1] <= _WHISPER_FFT // 2:
        raise AudioError(
            f"The audio is too short: {audio.shape[-1]} samples at {WHISPER_RATE} Hz; "
            f"more than {_WHISPER_FFT // 2} are needed."
        )
    window = torch.hann_window(_WHISPER_FFT, dtype=audio.dtype, device=audio.device)
    flat = audio.reshape(-1, audio.shape[-1])
    spectrum = torch.stft(flat, _WHISPER_FFT, _WHISPER_HOP, window=window, return_complex=True)
    power = spectrum[..., :-1].abs() ** 2
    bank = torch.tensor(slaney_filterbank(WHISPER_RATE, _WHISPER_FFT, n_mels)).to(power)
    log_mel = torch.clamp(bank @ power, min=1e-10).log10()
    log_mel = torch.maximum(log_mel, log_mel.amax(dim=(-2, -1), keepdim=True) - 8.0)
    return ((log_mel + 4.0) / 4.0).reshape(*audio.shape[:-1], n_mels, -1)


def kaldi_fbank(audio: Tensor | np.ndarray, subtract_mean: bool = False) -> Tensor:
    """Kaldi's log filter bank: 16 kHz audio [..., samples] in -1..1 to [..., frames, 80], 100 frames/s.

    Frames of 25 ms every 10 ms that lie wholly inside the audio, each with its mean removed, pre-emphasis
    0.97 and Povey's window; power spectrum of 512 points; no dither. `subtract_mean` removes the mean over
    time, as CAM++ expects. Raises AudioError for less than one frame.
    """
    audio = torch.as_tensor(audio)
    if audio.shape[-1] < _KALDI_FRAME:
        raise AudioError(
            f"The audio is too short: {audio.shape[-1]} samples at {WHISPER_RATE} Hz; "
            f"at least {_KALDI_FRAME} are needed."
        )
    frames = audio.unfold(-1, _KALDI_FRAME, _KALDI_HOP)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    window = torch.hann_window(_KALDI_FRAME, periodic=False, dtype=torch.float64).pow(0.85).to(frames)
    frames = (frames - _KALDI_PREEMPHASIS * before) * window
    power = torch.fft.rfft(frames, n=_KALDI_FFT).abs() ** 2
    energies = power @ torch.tensor(_kaldi_filterbank()).to(power).T
    fbank = torch.clamp(energies, min=_KALDI_FLOOR).log()
    return fbank - fbank.mean(dim=-2, keepdim=True) if subtract_mean else fbank


@lru_cache(maxsize=32)
def slaney_filterbank(
    sample_rate: int, n_fft: int, n_mels: int, fmin: float = 0.0, fmax: float | None = None
) -> np.ndarray:
    """Triangular mel filters on Slaney's scale, each of unit area: read-only float32 [n_mels, n_fft // 2 +
    1].
    """
    edges = _slaney_to_hz(np.linspace(_slaney_mel(fmin), _slaney_mel(fmax or sample_rate / 2), n_mels + 2))
    bins = np.fft.rfftfreq(n_fft, d=1.0 / sample_rate)
    slopes = edges[:, None] - bins[None, :]
    widths = np.diff(edges)
    rising = -slopes[:-2] / widths[:-1, None]
    falling = slopes[2:] / widths[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    bank = (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
    bank.setflags(write=False)
    return bank


def _slaney_mel(hz: float) -> float:
    if hz < _SLANEY_BREAK_HZ:
        return hz / _SLANEY_HZ_PER_MEL
    return _SLANEY_BREAK_MEL + math.log(hz / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP


def _slaney_to_hz(mel: np.ndarray) -> np.ndarray:
    above = _SLANEY_BREAK_HZ * np.exp(_SLANEY_LOG_STEP * (mel - _SLANEY_BREAK_MEL))
    return np.where(mel < _SLANEY_BREAK_MEL, mel * _SLANEY_HZ_PER_MEL, above)


def slaney_bin_hz(bins: np.ndarray, n_mels: int, top_hz: float = 12000.0) -> np.ndarray:
    """Frequencies at which the filters of such bins are centred, where `n_mels` of them reach from 0 to `top_hz`."""
    return _slaney_to_hz((bins + 1) * (_slaney_mel(top_hz) / (n_mels + 1)))


def slaney_hz_bin(hz: np.ndarray, n_mels: int, top_hz: float = 12000.0) -> np.ndarray:
    """The bins, with their fractions, whose filters would be centred there: the inverse of `slaney_bin_hz`."""
    mel = np.vectorize(_slaney_mel, otypes=[float])(hz)
    return mel / (_slaney_mel(top_hz) / (n_mels + 1)) - 1


@lru_cache(maxsize=1)
def _kaldi_filterbank() -> np.ndarray:
    """Kaldi's filters, triangular over its mel axis 1127 ln(1 + f / 700): read-only float32 [80, 257]."""

    def mel(hz: Any) -> Any:
        return 1127.0 * np.log(1.0 + hz / 700.0)

    edges = np.linspace(mel(_KALDI_LOW_HZ), mel(WHISPER_RATE / 2), _KALDI_BINS + 2)
    bins = mel(np.arange(_KALDI_FFT // 2) * (WHISPER_RATE / _KALDI_FFT))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.maximum(0.0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    # Kaldi's banks have no weight at the Nyquist frequency.
    bank = np.pad(triangles, ((0, 0), (0, 1))).astype(np.float32)
    bank.setflags(write=False)
    return bank
