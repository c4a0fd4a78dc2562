"""Samples out of a WAV stream whose header may come in pieces and may not know its length."""

from __future__ import annotations

import struct

import numpy as np

from fireside.evaluate.latency.client import SILENCE, Broken, Pcm

MOST_HEADER = 64 * 1024
"""Bytes before the audio beyond which a body is not taken for a WAV."""


class WavBody:
    """Int16 mono at a known rate; anything else breaks the stream."""

    def __init__(self, sample_rate: int) -> None:
        self._rate, self._head = sample_rate, b""
        self._pcm: Pcm | None = None

    def samples(self, data: bytes) -> np.ndarray:
        """The samples that are whole by now; none before the header is."""
        if self._pcm is None:
            self._head += data
            start = self._audio_start(self._head)
            if start is None:
                if len(self._head) > MOST_HEADER:
                    raise Broken("the WAV has no data chunk")
                return SILENCE
            self._pcm, data, self._head = Pcm(), self._head[start:], b""
        return self._pcm.samples(data)

    def _audio_start(self, head: bytes) -> int | None:
        """Where the audio begins; None when more of the header must come."""
        if not b"RIFF".startswith(head[:4]) or not b"WAVE".startswith(head[8:12]):
            raise Broken(f"not a WAV: it begins with {head[:12]!r}")
        at = 12
        while len(head) >= at + 8:
            name, size = struct.unpack_from("<4sI", head, at)
            if name == b"data":
                return at + 8
            if name == b"fmt " and len(head) >= at + 24:
                kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head, at + 8)
                if kind not in (1, 0xFFFE) or (channels, rate, bits) != (1, self._rate, 16):
                    raise Broken(f"the WAV has {channels} × {bits} bits at {rate} Hz, not 1 × 16 at {self._rate}")
            at += 8 + size + size % 2
        return None
