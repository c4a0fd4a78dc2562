"""The chunks of one request as an iterator, for callers who wait for them where they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fireside.request import AudioChunk

if TYPE_CHECKING:
    from fireside.engine.engine import Engine


class Speaking(Iterator[AudioChunk]):
    """The chunks of one request; closing or dropping it cancels the request."""

    def __init__(self, engine: Engine, key: int, text: Iterator[str]) -> None:
        self._engine, self._key, self._text = engine, key, text

    def __next__(self) -> AudioChunk:
        while True:
            chunk = self._engine.next(self._key)
            if chunk is not None:
                return chunk
            self._listen()

    def _listen(self) -> None:
        """Give the request the next part of its text; it may take its time to come."""
        try:
            part = next(self._text, None)
        except BaseException:
            self.close()
            raise
        if part is None:
            self._engine.end(self._key)
        else:
            self._engine.feed(self._key, part)

    def close(self) -> None:
        """Cancel the request, if it is not over."""
        self._engine.cancel(self._key)

    def __del__(self) -> None:
        self._engine.drop(self._key)
