"""Joins separately made pieces of speech, chunk by chunk, without clicks."""

from __future__ import annotations

import numpy as np


class PieceJoiner:
    """One request's joiner: pieces come in as chunks, each is faded in and out, with a pause between two.

    The end of a piece is only known when it has come, so the last `fade_seconds` of it are held back until
    then.

        for piece in pieces:
            for chunk in piece: emit(joiner.push(chunk))
            emit(joiner.end_piece())

    Args:
        sample_rate: of the audio, in Hz.
        pause_seconds: silence between two pieces; none before the first or after the last.
        fade_seconds: length of the fades at a piece's ends.
    """

    def __init__(self, sample_rate: int, pause_seconds: float = 0.2, fade_seconds: float = 0.005) -> None:
        self._pause = np.zeros(round(pause_seconds * sample_rate), dtype=np.float32)
        fade = max(1, round(fade_seconds * sample_rate))
        # Raised cosine: no corner where the fade meets the silence or the speech.
        self._fade_in = (0.5 - 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / fade)).astype(np.float32)
        self._held = np.zeros(0, dtype=np.float32)
        self._position = 0  # samples of the current piece that have come in
        self._pieces = 0  # ended

    def push(self, chunk: np.ndarray) -> np.ndarray:
        """The next samples [n] of the current piece in; the samples that are ready out (maybe none)."""
        chunk = np.array(chunk, dtype=np.float32)
        if len(chunk) == 0:
            return chunk
        ready = []
        if self._position == 0 and self._pieces > 0:
            ready.append(self._pause)
        rising = self._fade_in[self._position : self._position + len(chunk)]
        chunk[: len(rising)] *= rising
        self._position += len(chunk)
        waiting = np.concatenate([self._held, chunk])
        ready_count = max(0, len(waiting) - len(self._fade_in))
        self._held = waiting[ready_count:]
        ready.append(waiting[:ready_count])
        return np.concatenate(ready)

    def end_piece(self) -> np.ndarray:
        """The current piece has ended: its held-back samples out, faded. A piece without samples leaves no
        pause.
        """
        tail = self._held
        if self._position > 0:
            self._pieces += 1
        self._held = np.zeros(0, dtype=np.float32)
        self._position = 0
        return tail * self._fade_in[::-1][len(self._fade_in) - len(tail) :] if len(tail) else tail
