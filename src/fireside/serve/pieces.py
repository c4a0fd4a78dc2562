"""The audio of a request in the format of its listener, for protocols that send it message by message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fireside.request import AudioChunk
    from fireside.serve.encode import Encoder
    from fireside.serve.speaking import Speaking


@dataclass(frozen=True)
class Piece:
    """Audio to send: where in the utterance it begins and how long it is, in seconds, and the share that is done.

    An encoder keeps a little back, so the seconds of a compressed piece are those that went in since the last one."""

    data: bytes
    index: int
    start: float
    seconds: float
    progress: float


async def pieces(speaking: Speaking, encoder: Encoder) -> AsyncIterator[Piece]:
    """What to send, as it is made; a chunk of which nothing can be sent yet goes out with the next one.

    Raises what the stream raises."""
    index, start, seconds = 0, 0.0, 0.0
    async for chunk in speaking:
        began = time.perf_counter()
        data = await asyncio.to_thread(_encode, encoder, chunk) if encoder.costly else _encode(encoder, chunk)
        speaking.encoded(time.perf_counter() - began)
        seconds += chunk.seconds
        if data:
            yield Piece(data, index, start, seconds, chunk.progress)
            index, start, seconds = index + 1, start + seconds, 0.0


def _encode(encoder: Encoder, chunk: AudioChunk) -> bytes:
    data = encoder.encode(chunk.samples)
    return data + encoder.finish() if chunk.final else data
