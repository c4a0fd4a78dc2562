"""The text of an utterance while it comes in."""

from __future__ import annotations

import asyncio
from collections import deque

from fireside.engine.stream import FLUSH, Flush
from fireside.errors import FiresideError, TextError, UsageError


class TextParts:
    """Takes the parts of one text from a client and gives them to the engine, which asks when it has room.

    An async iterator for `Service.stream`, for one event loop. max_text: characters that the text may have in all;
    since parts that wait are joined, a client that sends faster than anybody can speak fills no memory."""

    def __init__(self, max_text: int) -> None:
        self._max = max_text
        self._length = 0
        self._waiting: deque[str | Flush] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._error: FiresideError | None = None

    def push(self, text: str) -> None:
        """The next part. A text that has grown too long fails: its stream raises a TextError.

        Raises UsageError when the text has ended."""
        if self._error is not None:
            return
        if self._ended:
            raise UsageError("The text of this utterance has ended: begin another one for more.")
        self._length += len(text)
        if self._length > self._max:
            self.fail(
                TextError(
                    f"The text has more than the {self._max} characters that this server takes: "
                    "end the utterance earlier and begin another one."
                )
            )
        elif self._waiting and isinstance(self._waiting[-1], str):
            self._waiting[-1] += text
        elif text:
            self._waiting.append(text)
        self._news.set()

    def flush(self) -> None:
        """Say what there is without waiting for more."""
        if not self._ended and not (self._waiting and self._waiting[-1] is FLUSH):
            self._waiting.append(FLUSH)
            self._news.set()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._news.set()

    def fail(self, error: FiresideError) -> None:
        """What came makes no sense: the stream raises this."""
        self._waiting.clear()
        self._error = error
        self.end()

    def __aiter__(self) -> TextParts:
        return self

    async def __anext__(self) -> str | Flush:
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()
