"""Audio in the format a listener asked for, made while the audio is made."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import soxr

from fireside.audio.io import to_int16, wav_header
from fireside.errors import UsageError

_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_PAGE_LATENCY = 0x1302
"""SFC_SET_OGG_PAGE_LATENCY_MS of libsndfile, which soundfile has no name for: pages of a second otherwise, and no
sound before the first is full."""
_PAGE_MS = 80.0
_AT_ONCE = 1 << 15  # samples; libsndfile overflows its stack on very long writes


@dataclass(frozen=True)
class Format:
    """A way to send audio: its media type, libsndfile's names for it ('' where we write it), the rates it has."""

    media_type: str
    container: str = ""
    codec: str = ""
    rates: tuple[int, ...] = ()
    level: float | None = None
    """libsndfile's compression level, 0 to 1."""
    constant: bool = False
    """Frames of one size: whoever reads a stream without its length can tell it from the bytes."""
    streams: bool = True
    """Whether it can be sent while it is made. FLAC's header holds the length, without which many cannot read it."""


FORMATS: dict[str, Format] = {
    "mp3": Format("audio/mpeg", "MP3", "MPEG_LAYER_III", _MP3_RATES, level=0.6, constant=True),  # 64 kbit/s at 24 kHz
    "opus": Format("audio/ogg", "OGG", "OPUS", _OPUS_RATES, level=0.8),  # 60 kbit/s, half the work of 36
    "flac": Format("audio/flac", "FLAC", "PCM_16", streams=False),
    "wav": Format("audio/wav"),
    "pcm": Format("audio/pcm"),
}


def format_of(name: str) -> Format:
    """The format of that name. Raises UsageError that names those there are."""
    if name in FORMATS:
        return FORMATS[name]
    known = ", ".join(FORMATS)
    if name == "aac":
        raise UsageError(
            f"aac cannot be made here: no encoder of it has a licence that goes with ours. Use one of {known}."
        )
    raise UsageError(f"There is no audio format '{name}': use one of {known}.")


class _Sink(io.RawIOBase):
    """Takes what libsndfile writes; what has been taken out cannot be written over, as a header at the end would."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._gone = 0
        self._at = 0

    def take(self) -> bytes:
        data = bytes(self._data)
        self._gone += len(data)
        self._data.clear()
        return data

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._gone + len(self._data)}[whence]
        self._at = base + offset
        return self._at

    def write(self, data: Any) -> int:
        new = bytes(data)
        kept = new[max(0, self._gone - self._at) :]
        start = max(0, self._at - self._gone)
        self._data[start : start + len(kept)] = kept
        self._at += len(new)
        return len(new)


class Encoder:
    """Samples in, bytes of a format out, piece by piece.

    name: a key of FORMATS. sample_rate: of the samples that come. out_rate: of what goes out, in Hz; the nearest that
    the format has when not given. whole: nothing goes out before `finish`, and headers tell the true length; while
    streaming they cannot, and a format that needs that is always whole. Raises UsageError for an unknown format."""

    def __init__(self, name: str, sample_rate: int, *, out_rate: int | None = None, whole: bool = False) -> None:
        self.format = format_of(name)
        self.name = name
        rates = self.format.rates
        wanted = out_rate or sample_rate
        self.sample_rate = (
            wanted if not rates or wanted in rates else min((r for r in rates if r > wanted), default=rates[-1])
        )
        self._converter = (
            soxr.ResampleStream(sample_rate, self.sample_rate, 1, dtype="float32")
            if self.sample_rate != sample_rate
            else None
        )
        self.whole = whole or not self.format.streams
        self._sink = _Sink()
        self._file: soundfile.SoundFile | None = None
        self._frames = 0
        if self.format.container:
            self._file = soundfile.SoundFile(
                self._sink,
                "w",
                self.sample_rate,
                1,
                format=self.format.container,
                subtype=self.format.codec,
                compression_level=self.format.level,
                bitrate_mode="CONSTANT" if self.format.constant else None,
            )
            if self.format.container == "OGG":
                latency = soundfile._ffi.new("double *", _PAGE_MS)
                soundfile._snd.sf_command(self._file._file, _PAGE_LATENCY, latency, 8)
        elif name == "wav":
            self._sink.write(wav_header(self.sample_rate))

    @property
    def media_type(self) -> str:
        """What to call the bytes in a Content-Type."""
        return f"audio/pcm;rate={self.sample_rate}" if self.name == "pcm" else self.format.media_type

    @property
    def costly(self) -> bool:
        """Whether a chunk takes milliseconds: then it is not encoded in the event loop."""
        return self._file is not None

    def encode(self, samples: np.ndarray) -> bytes:
        """The bytes that samples [n], float in -1..1, add; perhaps none yet."""
        self._add(samples, last=False)
        return b"" if self.whole else self._sink.take()

    def finish(self) -> bytes:
        """The bytes that are still to come. The encoder is of no use afterwards."""
        if self._converter is not None:
            self._add(np.zeros(0, np.float32), last=True)
        if self._file is not None:
            self._file.close()
        elif self.name == "wav" and self.whole:
            self._sink.seek(0)
            self._sink.write(wav_header(self.sample_rate, self._frames))
        return self._sink.take()

    def _add(self, samples: np.ndarray, last: bool) -> None:
        samples = np.asarray(samples, dtype=np.float32)
        if self._converter is not None:
            samples = self._converter.resample_chunk(samples, last=last)
        self._frames += len(samples)
        if self._file is None:
            self._sink.write(to_int16(samples).tobytes())
            return
        samples = np.clip(samples, -1.0, 1.0)
        for start in range(0, len(samples), _AT_ONCE):
            self._file.write(samples[start : start + _AT_ONCE])
