"""Prompt recordings: the voice to copy, made ready for the models, or refused with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fireside.audio.io import Recording, read_audio
from fireside.errors import AudioError

MIN_SECONDS = 1.0
MAX_SECONDS = 30.0
MIN_RATE = 8000
FULL_RATE = 16000
"""From this rate on, a recording has all that the speaker encoder and the speech tokenizer listen to."""
LEVEL_DB = -20.0
"""Level of the active speech after preparation, in dB below full scale: that of the voices hearth learned
from.
"""

_READ_SECONDS = 300.0  # beyond it nothing is decoded: 30 s of speech are found long before
_FRAME_SECONDS = 0.02
_SILENCE_DB = -60.0  # a recording whose loudest moments are below it is silent
_ACTIVE_RANGE_DB = 35.0  # what is further below the loud moments is background
_MARGIN_SECONDS = 0.15  # silence kept at the ends
_PAUSE_SEARCH_SECONDS = 6.0  # a cut is looked for in so many seconds before the longest
_PAUSE_SECONDS = 0.2
_PEAK = 0.95
_CLIPPED_SHARE = 2e-4


@dataclass(frozen=True)
class PromptAudio:
    """A recording fit to be a prompt: samples [n] float32 mono, its rate in Hz, what the user should know,
    and whether its end was cut off.
    """

    samples: np.ndarray
    sample_rate: int
    notes: tuple[str, ...] = ()
    cut: bool = False

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sample_rate


def load_prompt(
    source: str | Path | bytes | tuple[np.ndarray | torch.Tensor, int],
    max_seconds: float = MAX_SECONDS,
    as_recorded: bool = False,
) -> PromptAudio:
    """Read a prompt from a file, the bytes of one, or (samples, rate), and prepare it.

    samples: [n], [channels, n] or [n, channels], float in -1..1 or int16. Offset and outer silence are
    removed and the level is set to LEVEL_DB, unless as_recorded; more than max_seconds is cut at a pause. Raises
    AudioError: what read_audio raises, silent, under MIN_SECONDS of sound, or a rate below MIN_RATE.
    """
    recording = from_samples(*source) if isinstance(source, tuple) else _from_file(source)
    rate = recording.sample_rate
    if rate < MIN_RATE:
        raise AudioError(f"The prompt is sampled at {rate} Hz; at least {MIN_RATE} Hz is needed.")
    notes: list[str] = []
    samples = recording.samples
    if _clipped_share(samples) > _CLIPPED_SHARE:
        notes.append("The prompt is clipped (recorded too loud): the voice may sound rough.")
    if rate < FULL_RATE:
        notes.append(f"The prompt is sampled at {rate} Hz, like a telephone: the voice may sound dull.")
    speech = _trim(samples - samples.mean(), rate)
    if len(speech) < MIN_SECONDS * rate:
        raise AudioError(
            f"The prompt has only {len(speech) / rate:.1f} s of sound; "
            f"at least {MIN_SECONDS:g} s is needed, and 3 to 10 s is best."
        )
    if not as_recorded:
        samples = speech
    cut = len(samples) > max_seconds * rate
    if cut:
        end = _pause_before(samples, rate, max_seconds)
        samples = samples[:end] if as_recorded else _trim(samples[:end], rate)
        notes.append(
            f"The prompt is longer than {max_seconds:g} s: only its first {end / rate:.1f} s, up to a pause, are used."
        )
    return PromptAudio(samples if as_recorded else _level(samples, rate), rate, tuple(notes), cut)


def _from_file(source: str | Path | bytes) -> Recording:
    return read_audio(source, _READ_SECONDS, cut=True)


def from_samples(samples: np.ndarray | torch.Tensor, rate: int) -> Recording:
    """A recording of samples as `load_prompt` takes them. Raises AudioError for a shape that is not audio."""
    array = np.asarray(samples)
    if array.dtype == np.int16:
        array = array.astype(np.float32) / 32768.0
    array = array.astype(np.float32)
    if array.ndim == 2:
        array = array.mean(axis=int(np.argmin(array.shape)))
    if array.ndim != 1 or array.size == 0:
        raise AudioError(f"The prompt's samples have the shape {array.shape}; mono samples [n] are needed.")
    if not np.isfinite(array).all():
        raise AudioError("The prompt holds samples that are not numbers.")
    return Recording(array[: int(_READ_SECONDS * rate)], rate)


def _frame_levels(samples: np.ndarray, rate: int) -> np.ndarray:
    """Level of every frame of _FRAME_SECONDS, in dB below full scale; the last, partial frame counts too."""
    size = round(_FRAME_SECONDS * rate)
    energies = np.add.reduceat(samples.astype(np.float64) ** 2, np.arange(0, len(samples), size))
    return 10.0 * np.log10(energies / size + 1e-12)


def _trim(samples: np.ndarray, rate: int) -> np.ndarray:
    """Without the silence before the first and after the last sound, but for a margin."""
    active = np.flatnonzero(_active(_frame_levels(samples, rate)))
    size = round(_FRAME_SECONDS * rate)
    margin = round(_MARGIN_SECONDS * rate)
    start = max(0, active[0] * size - margin)
    return samples[start : (active[-1] + 1) * size + margin]


def _active(levels: np.ndarray) -> np.ndarray:
    """Which frames are louder than the background."""
    # The loudest frame may be a click; a recording of some seconds has several loud ones.
    loud = np.sort(levels)[-min(len(levels), 5)]
    if loud < _SILENCE_DB:
        raise AudioError("The prompt is silent; record it again, closer to the microphone.")
    return levels > max(loud - _ACTIVE_RANGE_DB, _SILENCE_DB)


def _pause_before(samples: np.ndarray, rate: int, max_seconds: float) -> int:
    """The middle of the quietest stretch in the last seconds before max_seconds, as a sample index."""
    size = round(_FRAME_SECONDS * rate)
    first = round((max_seconds - _PAUSE_SEARCH_SECONDS) * rate)
    energies = samples[first : round(max_seconds * rate)].astype(np.float64) ** 2
    frames = energies[: len(energies) // size * size].reshape(-1, size).sum(axis=1)
    width = round(_PAUSE_SECONDS / _FRAME_SECONDS)
    stretches = np.convolve(frames, np.ones(width), mode="valid")
    return first + int(np.argmin(stretches)) * size + width * size // 2


def _clipped_share(samples: np.ndarray) -> float:
    """Share of the samples that lie in flat tops: three or more in a row at the very peak."""
    peak = float(np.abs(samples).max())
    top = np.abs(samples) >= 0.999 * peak
    runs = top[:-2] & top[1:-1] & top[2:]
    return float(runs.sum()) / len(samples) if peak > 0 else 0.0


def _level(samples: np.ndarray, rate: int) -> np.ndarray:
    """The active speech at LEVEL_DB, unless the peak would pass _PEAK."""
    levels = _frame_levels(samples, rate)
    active = 10.0 ** (levels[_active(levels)] / 10.0)
    gain = 10.0 ** (LEVEL_DB / 20.0) / float(np.sqrt(active.mean()))
    gain = min(gain, _PEAK / float(np.abs(samples).max()))
    return (samples * gain).astype(np.float32)
