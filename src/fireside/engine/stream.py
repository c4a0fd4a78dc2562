"""One reader's way through the service: the chunks of one request, its text as it comes, and what became of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from fireside.engine.results import replayed
from fireside.errors import FiresideError, UsageError
from fireside.request import AudioChunk, SpeechRequest, Timings

if TYPE_CHECKING:
    from fireside.engine.engine import Engine
    from fireside.engine.record import Record
    from fireside.engine.service import Service


class Flush(Enum):
    """A mark among the parts of a text."""

    NOW = "now"


FLUSH = Flush.NOW
"""Say what has come now, without waiting for the rest of its sentence."""

Outcome = Literal["running", "done", "cancelled", "failed", "refused"]


@dataclass(frozen=True)
class Report:
    """What became of a stream.

    error: class name of the error that ended it; first: timings of the first chunk, the split of the time to first
    audio; slacks: seconds of audio that the listener, hearing since the first chunk, still had when each later one
    came; underruns: how often that was less than nothing; cached: whether it came from the cache of results.
    """

    id: str
    outcome: Outcome = "running"
    error: str = ""
    timings: Timings = field(default_factory=Timings)
    first: Timings | None = None
    chunks: int = 0
    underruns: int = 0
    slacks: tuple[float, ...] = ()
    cached: bool = False


class Stream:
    """The chunks of one request, for one reader in one event loop: `async with` (or `aclose`), then `async for`.

    Nothing happens before it is entered, or the first chunk is asked for. See `Service.stream`.
    """

    def __init__(
        self, service: Service, request: SpeechRequest, text: AsyncIterable[str | Flush] | None, name: str
    ) -> None:
        self.id = name
        self.request = request
        self._service = service
        self._text = text
        self._teller: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None
        self._record: Record | None = None
        self._outcome: Outcome = "running"
        self._error: BaseException | None = None
        self._timings = Timings()
        self._first: Timings | None = None
        self._count = 0
        self._cached = False
        self._kept: list[AudioChunk] = []
        self._key: str | None = None
        # Shared with the worker, under the lock.
        self._lock = threading.Lock()
        self._ready: deque[AudioChunk | FiresideError] = deque()
        self._unread = 0.0
        self.held = False
        self.admitted = 0.0
        self.touched = 0.0
        """When the reader last took or gave something."""

    @property
    def key(self) -> int | None:
        """The engine's number of it, once it is there."""
        return None if self._record is None else self._record.id

    @property
    def over(self) -> bool:
        """Whether its reader has its end."""
        return self._outcome != "running"

    @property
    def report(self) -> Report:
        """What became of it so far."""
        listener = None if self._record is None else self._record.listener
        return Report(
            self.id,
            self._outcome,
            "" if self._error is None else type(self._error).__name__,
            self._timings,
            self._first,
            self._count,
            0 if listener is None else listener.underruns,
            () if listener is None else tuple(listener.slacks),
            self._cached,
        )

    async def __aenter__(self) -> Stream:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> AudioChunk:
        if self._loop is None:
            await self._open()
        assert self._news is not None
        while not self.over:
            with self._lock:
                item = self._ready.popleft() if self._ready else None
            if isinstance(item, AudioChunk):
                await self._take(item)
                return item
            if item is not None:
                self._end("failed", item)
                raise item
            self._news.clear()
            await self._news.wait()
        raise StopAsyncIteration

    async def feed(self, part: str) -> None:
        """A part of the text of a request that has none yet. Does nothing when the stream is over."""
        await self._tell(lambda engine, key: engine.feed(key, part))

    async def flush(self) -> None:
        """Say what has come of the text now, without waiting for the rest of its sentence."""
        await self._tell(lambda engine, key: engine.flush(key))

    async def end(self) -> None:
        """The text has ended."""
        await self._tell(lambda engine, key: engine.end(key))

    async def aclose(self) -> None:
        """Cancel it if it is not over; everything that is kept for it is freed. Never waits."""
        self._end("cancelled")

    def __del__(self) -> None:
        if self._loop is not None and not self.over:
            self._end("cancelled")

    async def _open(self) -> None:
        """Wait for a place and have the text read. Raises what is wrong with the request."""
        if self._loop is not None:
            raise UsageError("A stream is read once: make another one for the same request.")
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        made = time.perf_counter()
        service = self._service
        service._opened(id(self))
        try:
            if await self._found():
                return
            await service._admission.acquire()
            self.admitted = self.touched = time.perf_counter()
            try:
                record = await self._loop.run_in_executor(service._reader, service.engine.prepare, self.request, made)
            except BaseException:
                service._admission.release(time.perf_counter() - self.admitted)
                raise
        except asyncio.CancelledError:
            self._end("cancelled")
            raise
        except BaseException as error:
            self._end("refused", error)
            raise
        if self.over:  # it was closed meanwhile
            service._admission.release(time.perf_counter() - self.admitted)
            return
        self._record = record
        service._enter(self, record)
        if self._text is not None:
            self._teller = self._loop.create_task(self._tell_all(self._text))

    async def _found(self) -> bool:
        """Whether the whole result is known already."""
        results = self._service._results
        if results is None:
            return False
        self._key = self._service._result_key(self.request)
        result = None if self._key is None else await results.get(self._key)
        if result is not None:
            self._ready.extend(replayed(result))
            self._cached, self._key = True, None
        return result is not None

    async def _take(self, chunk: AudioChunk) -> None:
        """A chunk goes to the reader."""
        with self._lock:
            self._unread -= chunk.seconds
            self.touched = time.perf_counter()
            resume = self.held and self._unread <= self._service.limits.unread_seconds / 2
            if resume:
                self.held = False
        if resume:
            self._tell_engine(lambda engine, key: engine.hold(key, False))
        self._timings = chunk.timings
        self._first = self._first or chunk.timings
        self._count += 1
        results = self._service._results
        if self._key is not None and results is not None:
            self._kept.append(chunk)
            if chunk.final:
                await results.put(self._key, tuple(self._kept))
        if chunk.final:
            self._end("done")

    def put(self, item: AudioChunk | FiresideError) -> None:
        """From the worker: what has become of it next."""
        with self._lock:
            if self.over:
                return
            self._ready.append(item)
            if isinstance(item, AudioChunk):
                self._unread += item.seconds
                self.held = not item.final and self._unread >= self._service.limits.unread_seconds
        if not self._wake():  # its reader's event loop is closed: nobody will ever read it
            self._end("cancelled")

    def _wake(self) -> bool:
        """Have the reader look again; False when its event loop is closed."""
        assert self._loop is not None
        assert self._news is not None
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            return False
        return True

    async def _tell(self, command: Callable[[Engine, int], None]) -> None:
        if self._loop is None:
            await self._open()
        self.touched = time.perf_counter()
        self._tell_engine(command)

    def _tell_engine(self, command: Callable[[Engine, int], None]) -> None:
        key, engine = self.key, self._service.engine
        if key is not None and not self.over:
            self._service._post(lambda: command(engine, key))

    async def _tell_all(self, text: AsyncIterable[str | Flush]) -> None:
        """Give the engine the parts of a text as they come."""
        try:
            async for part in text:
                await (self.flush() if isinstance(part, Flush) else self.feed(part))
            await self.end()
        except Exception as error:
            failure = error if isinstance(error, FiresideError) else UsageError(f"The text broke off: {error!r}.")
            failure.__cause__ = error.__cause__ if failure is error else error
            self._tell_engine(lambda engine, key: engine.fail(key, failure))

    def _end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """It is over for its reader; whatever is left of it is dropped. May be called from any thread."""
        with self._lock:
            if self.over:
                return
            self._outcome, self._error = outcome, error
            self._ready.clear()
            self._kept.clear()
        if self._loop is None:
            return
        if self._wake() and self._teller is not None:
            self._loop.call_soon_threadsafe(self._teller.cancel)
        self._service._ended(id(self), self.key, outcome, error)
