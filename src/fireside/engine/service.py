"""The engine for many at once, from an event loop: `async for chunk in service.stream(request)`.

One thread of its own steps the engine; requests come to it as commands between two steps, chunks go from it to the
event loops of their readers. Every server speaks through this. A request waits for a place (`admission.py`), is read by
the front end in another thread, and gives everything back the moment it ends, fails, is cancelled or dropped. A reader
who is slow holds up nobody but himself: what he does not take is kept up to a bound, then his request rests.
"""

from __future__ import annotations

import asyncio
import logging
import math
import statistics
import threading
import time
import uuid
import weakref
from collections import Counter, deque
from collections.abc import AsyncIterable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import torch
from pydantic import Field

from fireside.cache import CacheUse
from fireside.engine.admission import Admission, stopping
from fireside.engine.beside import set_threads
from fireside.engine.memory import free_memory
from fireside.engine.results import model_key, result_key
from fireside.engine.stream import Flush, Outcome, Stream
from fireside.errors import EngineError, FiresideError, StalledError, TimeLimitError
from fireside.models.config import Config
from fireside.request import AudioChunk, SpeechRequest

if TYPE_CHECKING:
    from fireside.engine.engine import Engine
    from fireside.engine.record import Record
    from fireside.engine.results import Results

_log = logging.getLogger(__name__)

T = TypeVar("T")

LOAD = 0.75
"""Share of the machine's time that streams at real time may take together; the rest is for everything else."""

MOST_STREAMS = 32
"""Streams at once where a number was not asked for, however fast the machine."""

UNMEASURED_STREAMS = 4
"""Streams at once where neither a number was given nor anything measured."""

RENDERERS = 2
"""Processes that render, where some do: two of one thread each made sixteen streams 8 % faster than one of two."""

_MEASUREMENTS = 3  # streams whose median says how fast the machine is

_READERS = 4  # threads in which texts and voices are made ready: a voice that is new may take a second

_LOOK_ROUND = 0.25  # seconds between two looks at who is late, and at the memory in use


class Limits(Config):
    """What the service takes on."""

    max_streams: int | None = Field(default=None, ge=1, description="computed at once; measured at the start if None")
    max_queue: int = Field(default=32, ge=0, description="requests that may wait for a place")
    queue_seconds: float = Field(default=30.0, gt=0, description="longest wait for a place")
    request_seconds: float = Field(default=600.0, gt=0, description="longest time a request may be computed for")
    unread_seconds: float = Field(default=30.0, gt=0, description="audio kept for a reader who does not take it")
    stall_seconds: float = Field(default=60.0, gt=0, description="longest wait for a reader, or for the next text")
    memory_bytes: int | None = Field(default=None, ge=1, description="for all streams; half of what is free if None")


@dataclass(frozen=True)
class Statistics:
    """How the service stands: streams, memory in bytes, totals since the start, and what a new request would wait."""

    active: int
    queued: int
    held: int
    max_streams: int
    max_queue: int
    draining: bool
    measured_rtf: float
    stream_bytes: int
    memory_bytes: int
    memory_limit: int
    admitted: int
    done: int
    cancelled: int
    failed: int
    refused: int
    errors: Mapping[str, int]
    audio_seconds: float
    busy_seconds: float
    steps: int
    rows: int
    caches: Mapping[str, CacheUse]
    retry_after: float


class Service:
    """Streams for many readers over one engine, which nothing else steps meanwhile.

    results: a cache of whole results; apart: rendering may be done in processes of its own, see
    Engine.part; threads: that the engine computes with, torch's number when not given. Whatever
    else is computed here has one: OpenMP (GNU's) keeps a team of threads for each thread that ever had several, and
    when there are more of them than cores none of them spins any more, which makes every step take nearly twice as
    long. So a process that has a service had better not compute with several threads anywhere else.

    `async with` starts and closes it.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits | None = None,
        *,
        results: Results | None = None,
        threads: int | None = None,
        apart: bool = False,
    ) -> None:
        self.engine = engine
        self._apart = apart
        self._threads = torch.get_num_threads() if threads is None else threads
        self.limits = limits or Limits()
        self._results = results
        self._model = "" if results is None else model_key(engine.model)
        self._admission = Admission(0, self.limits.max_queue, self.limits.queue_seconds)
        self._reader = ThreadPoolExecutor(_READERS, "fireside-front-end", set_threads, (1,))
        self._helper = ThreadPoolExecutor(1, "fireside-helper", set_threads, (1,))
        self._worker = threading.Thread(target=self._work, name="fireside-engine", daemon=True)
        self._commands: deque[Callable[[], None]] = deque()
        self._news = threading.Condition()
        self._stopped = self._ended_work = False
        # The worker's alone. Weak, so that a stream that nobody has any more is dropped.
        self._running: dict[int, tuple[weakref.ref[Stream], float]] = {}
        self._lock = threading.RLock()  # a stream may be dropped, and end, anywhere
        self._streams: set[int] = set()
        self._quiet = threading.Event()
        self._quiet.set()
        self._ready = False
        self._rtf = 0.0
        self._stream_bytes = self._memory_limit = self._nbytes = self._held = 0
        self._totals: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    async def __aenter__(self) -> Service:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self, warm_up: SpeechRequest | None = None) -> None:
        """Load the model, and measure how many streams it can keep up with where that was not given.

        warm_up: a short request that is streamed; without it nothing is measured. Raises ModelError.
        """
        limits, engine = self.limits, self.engine
        engine.reserve(limits.max_streams or MOST_STREAMS)
        if self._apart and self._threads > 1:
            await self.run(engine.part, RENDERERS)
        self._worker.start()
        unread = int(limits.unread_seconds * engine.model.config.vocoder.sample_rate) * 4
        self._stream_bytes = unread + await self.run(lambda: engine.request_bytes)
        self._memory_limit = limits.memory_bytes or await self.run(lambda: free_memory(engine.device)) // 2
        most = max(1, self._memory_limit // max(1, self._stream_bytes))
        streams = limits.max_streams or UNMEASURED_STREAMS
        if warm_up is not None:
            await self._measure(warm_up)  # whatever is done once only
            self._rtf = statistics.median([await self._measure(warm_up) for _ in range(_MEASUREMENTS)])
            if limits.max_streams is None:
                # Several together cost less each, but only while nobody is in a hurry: it is not counted on.
                streams = min(math.ceil(LOAD / self._rtf), MOST_STREAMS)
        self._admission.places = min(streams, most)
        with self._lock:
            self._totals.clear()
            self._errors.clear()
        self._ready = True

    async def _measure(self, request: SpeechRequest) -> float:
        """Time from asking to the last chunk over the duration of the audio, for a stream that is alone."""
        self._admission.places = 1
        asked, seconds = time.perf_counter(), 0.0
        async with self.stream(request) as stream:
            async for chunk in stream:
                seconds += chunk.seconds
        return (time.perf_counter() - asked) / max(seconds, 1e-3)

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self._ready and not self._admission.stopping

    @property
    def max_streams(self) -> int:
        """How many streams are computed at once."""
        return self._admission.places

    def stream(
        self, request: SpeechRequest, *, text: AsyncIterable[str | Flush] | None = None, id: str | None = None
    ) -> Stream:
        """The chunks of a request, as they are made.

        Entering it, or asking for its first chunk, waits for a place and raises what is wrong with the request:
        BusyError, StoppingError, TextError and UsageError among others. What goes wrong afterwards is raised in place
        of a chunk: TextError, TimeLimitError, StalledError, or EngineError when the model fails. text: the parts of a
        text that is not there yet, for a request whose text is None; `feed` and `end` do the same.
        """
        return Stream(self, request, text, uuid.uuid4().hex if id is None else id)

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Do other heavy work, one at a time, in a thread beside the streams."""
        return await asyncio.get_running_loop().run_in_executor(self._helper, function, *args)

    def statistics(self) -> Statistics:
        """How it stands. Never waits."""
        admission, work = self._admission, self.engine.work
        caches = dict(self.engine.caches)
        if self._results is not None:
            caches["results"] = self._results.use
        with self._lock:
            totals, errors = Counter(self._totals), dict(self._errors)
        return Statistics(
            active=admission.taken,
            queued=admission.queued,
            held=self._held,
            max_streams=admission.places,
            max_queue=self.limits.max_queue,
            draining=admission.stopping,
            measured_rtf=self._rtf,
            stream_bytes=self._stream_bytes,
            memory_bytes=self._nbytes,
            memory_limit=self._memory_limit,
            admitted=totals["admitted"],
            done=totals["done"],
            cancelled=totals["cancelled"],
            failed=totals["failed"],
            refused=totals["refused"],
            errors=errors,
            audio_seconds=work.audio_seconds,
            busy_seconds=work.busy_seconds,
            steps=work.steps,
            rows=work.rows,
            caches=caches,
            retry_after=admission.retry_after,
        )

    async def drain(self, seconds: float | None = None) -> None:
        """Take nothing new in, let everybody finish who is there, then stop; after `seconds` who is left is cut off."""
        self._admission.stop()
        if self._worker.ident is not None and not self._stopped:
            if not await asyncio.to_thread(self._quiet.wait, seconds):
                self._admission.stop(cut_off=True)
            self._post(self._stop)
            await asyncio.to_thread(self._worker.join)
        self._reader.shutdown(wait=False)
        self._helper.shutdown(wait=False)

    async def close(self) -> None:
        """Stop at once; what is being spoken ends with a StoppingError."""
        await self.drain(0)

    def _opened(self, stream: int) -> None:
        with self._lock:
            self._streams.add(stream)
            self._quiet.clear()

    def _ended(self, stream: int, key: int | None, outcome: Outcome, error: BaseException | None) -> None:
        """A stream is over for its reader."""
        if key is not None and outcome != "done":
            self._post(lambda: self._drop(key))
        with self._lock:
            self._totals[outcome] += 1
            if error is not None:
                self._errors[type(error).__name__] += 1
            self._streams.discard(stream)
            if not self._streams:
                self._quiet.set()

    def _enter(self, stream: Stream, record: Record) -> None:
        """Hand a request to the worker."""
        with self._lock:
            self._totals["admitted"] += 1
        reference, admitted = weakref.ref(stream), stream.admitted

        def enter() -> None:
            self._running[record.id] = reference, admitted
            if self._stopped:
                self._deliver(record.id, stopping())
            else:
                self.engine.enter(record)

        self._post(enter)

    def _result_key(self, request: SpeechRequest) -> str | None:
        return result_key(self._model, self.engine.model.config, request)

    def _post(self, command: Callable[[], None]) -> None:
        """Have the worker do something before its next step; once it has ended there is nobody else to do it."""
        with self._news:
            if not self._ended_work:
                self._commands.append(command)
                self._news.notify()
                return
        command()

    # What follows runs in the worker.

    def _work(self) -> None:
        set_threads(self._threads)
        moved = False
        looked = 0.0
        while not self._stopped:
            self._obey(wait=not moved)
            try:
                moved = self.engine.advance()
            except Exception as error:
                _log.exception("the engine failed; all its streams end")
                moved = False
                self._end_all(error)
            for key, item in self.engine.collect():
                self._deliver(key, item)
            now = time.perf_counter()
            if now - looked > _LOOK_ROUND or not self._running:  # it may sleep for long after the last one
                self._look_round(now)
                looked = now
        with self._news:
            self._ended_work = True
            commands = list(self._commands)
        for command in commands:
            command()
        for key in list(self._running):
            self.engine.cancel(key)
            self._deliver(key, stopping())

    def _obey(self, wait: bool) -> None:
        """Do what was posted; when there is nothing to compute, wait for it."""
        with self._news:
            if wait and not self._commands:
                self._news.wait(_LOOK_ROUND if self._running else None)
            commands, self._commands = self._commands, deque()
        for command in commands:
            command()

    def _stop(self) -> None:
        self._stopped = True

    def _deliver(self, key: int, item: AudioChunk | FiresideError) -> None:
        """Hand on what came out of a request."""
        if key not in self._running:
            return
        reference, _ = self._running[key]
        stream = reference()
        if not isinstance(item, AudioChunk) or item.final:
            self._forget(key)
        if stream is None:
            return
        stream.put(item)
        if stream.held:
            self.engine.hold(key, True)

    def _drop(self, key: int) -> None:
        """A request that nobody reads any more."""
        self.engine.cancel(key)
        self._forget(key)

    def _forget(self, key: int) -> None:
        """Its place is free, whether or not its reader has taken everything."""
        if key in self._running:
            _, admitted = self._running.pop(key)
            self._admission.release(time.perf_counter() - admitted)

    def _end_all(self, error: Exception) -> None:
        for key in list(self._running):
            failure = error if isinstance(error, FiresideError) else EngineError("The engine failed; try again.")
            failure.__cause__ = error
            self._deliver(key, failure)

    def _look_round(self, now: float) -> None:
        """End what took too long or came to a halt, and note the memory in use."""
        limits = self.limits
        held = 0
        for key, (reference, admitted) in list(self._running.items()):
            stream = reference()
            if stream is None:
                continue
            held += stream.held
            quiet = now - stream.touched > limits.stall_seconds
            if now - admitted > limits.request_seconds:
                self.engine.fail(key, TimeLimitError(f"The request took longer than {limits.request_seconds:g} s."))
            elif quiet and stream.held:
                self.engine.fail(key, StalledError(f"Nobody took the audio for {limits.stall_seconds:g} s."))
            elif quiet and self.engine.starved(key):
                self.engine.fail(key, StalledError(f"No more text came for {limits.stall_seconds:g} s."))
        self._held = held
        self._nbytes = self.engine.nbytes
