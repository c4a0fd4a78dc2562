"""Sample-rate conversion with a Hann-windowed sinc, for audio that a model will see.

The kernel is that of Smith's band-limited interpolation (J. O. Smith, "Digital Audio Resampling") with six
zero crossings a side and the cut-off at 0.99 of the lower Nyquist frequency: what the released models were
trained on.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fireside.errors import AudioError

_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99

# Above this many entries a table of one filter per output phase is no longer worth its memory (44,100 to
# 16,000 Hz needs 76,000; 44,101 to 16,000 Hz would need 700 million): such pairs compute each output's own
# taps.
_MAX_TABLE = 1_000_000
_OUTPUTS_AT_ONCE = 16384


def resample(audio: Tensor | np.ndarray, orig: int, new: int) -> Tensor:
    """Convert audio [..., samples] from `orig` to `new` Hz: [..., ceil(samples * new / orig)], of the same
    dtype.

    Raises AudioError when a rate is not positive.
    """
    audio = torch.as_tensor(audio)
    if orig <= 0 or new <= 0:
        raise AudioError(f"A sample rate must be positive, not {min(orig, new)} Hz.")
    if orig == new or audio.shape[-1] == 0:
        return audio
    divisor = math.gcd(orig, new)
    orig, new = orig // divisor, new // divisor
    cutoff = min(orig, new) * _ROLLOFF
    width = math.ceil(_ZERO_CROSSINGS * orig / cutoff)
    length = -(-new * audio.shape[-1] // orig)
    flat = audio.reshape(-1, audio.shape[-1])
    convert = _by_table if new * (2 * width + orig) <= _MAX_TABLE else _by_output
    return convert(flat, orig, new, cutoff, width, length).reshape(*audio.shape[:-1], length)


def _by_table(audio: Tensor, orig: int, new: int, cutoff: float, width: int, length: int) -> Tensor:
    """One filter for each of the `new` phases, applied to every block of `orig` inputs (polyphase)."""
    taps = np.arange(-width, width + orig)
    phases = np.arange(new)
    kernel = _kernel((taps[None, :] / orig - phases[:, None] / new) * cutoff) * (cutoff / orig)
    padded = torch.nn.functional.pad(audio, (width, width + orig))
    blocks = padded.unfold(-1, 2 * width + orig, orig)
    outputs = blocks @ torch.from_numpy(kernel).to(audio).T
    return outputs.reshape(audio.shape[0], -1)[:, :length]


def _by_output(audio: Tensor, orig: int, new: int, cutoff: float, width: int, length: int) -> Tensor:
    """The same sum with the taps of each output computed on the way, for pairs with too many phases."""
    padded = torch.nn.functional.pad(audio, (width, width + 1))
    taps = np.arange(-width, width + 2)
    pieces = []
    for start in range(0, length, _OUTPUTS_AT_ONCE):
        outputs = np.arange(start, min(start + _OUTPUTS_AT_ONCE, length))
        at, fraction = np.divmod(outputs * orig, new)
        kernel = _kernel((taps[None, :] - (fraction / new)[:, None]) / orig * cutoff) * (cutoff / orig)
        inputs = padded[:, torch.from_numpy(at[:, None] + taps[None, :] + width)]
        pieces.append((inputs * torch.from_numpy(kernel).to(audio)).sum(dim=-1))
    return torch.cat(pieces, dim=-1)


def _kernel(position: np.ndarray) -> np.ndarray:
    """Hann-windowed sinc at distances counted in zero crossings, float64; zero beyond the window."""
    position = np.clip(position, -_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = np.cos(position * (math.pi / _ZERO_CROSSINGS / 2)) ** 2
    return np.sinc(position) * window
