"""Audio files: read any that libsndfile knows, bounded while decoding; write wav, flac, mp3, ogg and opus.

Audio in memory is float32, mono, -1..1.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from fireside.errors import AudioError, OutputError, UsageError

DEFAULT_MAX_SECONDS = 3600.0

_READABLE = "wav, flac, mp3, ogg and opus can be read"
_WRITABLE: dict[str, tuple[str, str]] = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
}
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_VALUES_AT_ONCE = 1 << 18  # decoded at a time, over all channels
_WRITE_AT_ONCE = 1 << 15  # libsndfile's Vorbis encoder overflows its stack on very long writes
_MAX_STREAM_BYTES = 1 << 28  # taken from a pipe, which has no size to check
_UNKNOWN_LENGTH = 0xFFFFFFFF
_MAX_RATE = 768_000  # in Hz; a header that claims more would make any bound in seconds a bound in gigabytes


@dataclass(frozen=True)
class Recording:
    """Decoded audio: samples [n] float32 mono, their rate in Hz, and whether that is all the source held."""

    samples: np.ndarray
    sample_rate: int
    complete: bool = True

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sample_rate


def read_audio(source: str | Path | bytes, max_seconds: float = DEFAULT_MAX_SECONDS, *, cut: bool = False) -> Recording:
    """Read a file, or the bytes of one; channels are averaged. The rate is the source's own.

    Decoding stops at `max_seconds`, whatever the header says: longer audio is cut there when `cut`, refused
    else. Raises AudioError: missing, a folder, unreadable, empty, not audio, damaged, no samples, or too
    long.
    """
    name = str(source) if isinstance(source, str | Path) else "the given audio"
    with _open(source, name) as stream:
        try:
            file = soundfile.SoundFile(stream)
        # A TypeError is soundfile's answer to a file named .raw, which has no header to read.
        except (soundfile.LibsndfileError, TypeError) as error:
            raise AudioError(f"{name} is not audio in a known format; {_READABLE}.") from error
        with file:
            return _decode(file, name, max_seconds, cut)


def _open(source: str | Path | bytes, name: str) -> BinaryIO:
    stream: BinaryIO
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            raise AudioError(f"{name} is a folder; give an audio file.")
        try:
            stream = path.open("rb")
            if not stream.seekable():
                with stream:
                    stream = io.BytesIO(stream.read(_MAX_STREAM_BYTES))
        except FileNotFoundError as error:
            raise AudioError(f"There is no file {name}.") from error
        except OSError as error:
            raise AudioError(f"{name} cannot be read: {error.strerror}.") from error
    else:
        stream = io.BytesIO(source)
    if not stream.read(1):
        stream.close()
        raise AudioError(f"{name} is empty.")
    stream.seek(-1, os.SEEK_CUR)
    return stream


def _decode(file: soundfile.SoundFile, name: str, max_seconds: float, cut: bool) -> Recording:
    rate = file.samplerate
    if rate > _MAX_RATE:
        raise AudioError(f"{name} says that it has {rate} samples a second; no more than {_MAX_RATE} are read.")
    limit = int(max_seconds * rate)
    block = max(1, _VALUES_AT_ONCE // file.channels)
    pieces: list[np.ndarray] = []
    count = 0
    while count <= limit:
        try:
            values = file.read(block, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{name} is damaged: it cannot be decoded beyond {count / rate:.1f} s.") from error
        if len(values) == 0:
            break
        pieces.append(values.mean(axis=1, dtype=np.float32))
        count += len(values)
    if count == 0:
        raise AudioError(f"{name} holds no audio.")
    if count > limit and not cut:
        raise AudioError(f"{name} is longer than {max_seconds:g} s; cut it first.")
    samples = np.concatenate(pieces)[:limit]
    if not np.isfinite(samples).all():
        raise AudioError(f"{name} is damaged: it holds samples that are not numbers.")
    return Recording(samples, rate, complete=count <= limit)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Float samples to int16, those beyond -1..1 clipped."""
    return np.round(np.clip(np.asarray(samples, dtype=np.float32), -1.0, 1.0) * 32767.0).astype("<i2")


def output_format(path: str | Path) -> tuple[str, str]:
    """libsndfile's format and subtype for a file name. Raises UsageError for an unknown extension."""
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITABLE:
        known = ", ".join(_WRITABLE)
        problem = f"ends in {suffix}, which is no known audio format" if suffix else "has no extension"
        raise UsageError(f"The output file {path} {problem}; use one of {known}.")
    return _WRITABLE[suffix]


def check_writable(path: str | Path) -> None:
    """Raise what writing to `path` would: UsageError or OutputError. Leaves the path as it was."""
    output_format(path)
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give a file name.")
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist; create it, or write elsewhere.")
    existed = path.exists()
    try:
        # Asking the system for permission bits is not enough: a read-only disk has them too.
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise _not_written(path, error) from error


class AudioWriter:
    """Writes a file piece by piece, in the format of its extension; what was written before a break is kept.

    Use as a context manager, or call `close`. Raises UsageError and OutputError.
    """

    def __init__(self, path: str | Path, sample_rate: int) -> None:
        format_name, subtype = output_format(path)
        self._path = Path(path)
        rate = sample_rate
        self._converter: soxr.ResampleStream | None = None
        if subtype == "OPUS" and rate not in _OPUS_RATES:
            rate = next((allowed for allowed in _OPUS_RATES if allowed >= rate), _OPUS_RATES[-1])
            self._converter = soxr.ResampleStream(sample_rate, rate, 1, dtype="float32")
        try:
            self._file = soundfile.SoundFile(
                str(path), "w", samplerate=rate, channels=1, format=format_name, subtype=subtype
            )
        except (soundfile.LibsndfileError, OSError) as error:
            raise _not_written(self._path, error) from error

    def write(self, samples: np.ndarray) -> None:
        """Append samples [n], float in -1..1; those beyond are clipped."""
        self._write(samples, last=False)

    def close(self) -> None:
        """Finish the file. Does nothing the second time."""
        if self._file.closed:
            return
        try:
            if self._converter is not None:
                self._write(np.zeros(0, dtype=np.float32), last=True)
        finally:
            try:
                self._file.close()
            except soundfile.LibsndfileError as error:
                raise _not_written(self._path, error) from error

    def _write(self, samples: np.ndarray, last: bool) -> None:
        samples = np.clip(np.asarray(samples, dtype=np.float32), -1.0, 1.0)
        if self._converter is not None:
            samples = self._converter.resample_chunk(samples, last=last)
        try:
            for block in _blocks(samples):
                self._file.write(block)
        except (soundfile.LibsndfileError, OSError) as error:
            raise _not_written(self._path, error) from error

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def write_audio(path: str | Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write samples [n] to a file in the format of its extension. Raises UsageError and OutputError."""
    with AudioWriter(path, sample_rate) as writer:
        writer.write(samples)


class WavStream:
    """Playable WAV (16 bit, mono) to a binary stream, as it is made.

    The header gives no length: players and ffmpeg read such a file to its end. Raises OutputError when the
    reader has gone away.
    """

    def __init__(self, stream: BinaryIO, sample_rate: int) -> None:
        self._stream = stream
        self._send(wav_header(sample_rate))

    def write(self, samples: np.ndarray) -> None:
        """Send samples [n], float in -1..1, at once."""
        self._send(to_int16(samples).tobytes())

    def _send(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            self._stream.flush()
        except OSError as error:
            raise OutputError(f"The audio stream was closed by its reader: {error.strerror}.") from error


def wav_header(sample_rate: int, frames: int | None = None) -> bytes:
    """The 44 bytes before that many 16-bit mono samples; None: their number is not known yet."""
    size = _UNKNOWN_LENGTH if frames is None else 2 * frames
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", min(size + 36, _UNKNOWN_LENGTH), b"WAVE"),
        *(b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16),
        *(b"data", size),
    )


def _blocks(samples: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(samples), _WRITE_AT_ONCE):
        yield samples[start : start + _WRITE_AT_ONCE]


def _not_written(path: Path, error: Any) -> OutputError:
    reason = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
    return OutputError(f"{path} cannot be written: {str(reason).rstrip('.')}.")
