"""A service that makes tones: what the servers need of Service, with whatever goes wrong that a test asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from fireside.engine.service import Statistics
from fireside.engine.stream import Report
from fireside.errors import BusyError, EngineError, StoppingError
from fireside.request import AudioChunk, SpeechRequest, Timings

RATE = 24_000
T = TypeVar("T")


@dataclass
class FakeService:
    """Texts become chunks of a tone, `chunk_seconds` each, one for every ten characters.

    A text that holds '!fail' ends with an EngineError after its first chunk, one with '!refuse' before it, one with
    '!boom' with an error of no FiresideError's kind; '!slow' takes `slow` seconds for each chunk."""

    max_streams: int = 4
    chunk_seconds: float = 0.1
    slow: float = 0.05
    ready: bool = True
    draining: bool = False
    active: int = 0
    freed: list[float] = field(default_factory=list)
    """When streams ended (time.monotonic)."""

    def stream(self, request: SpeechRequest, *, text: Any = None, id: str | None = None) -> FakeStream:
        return FakeStream(self, request)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(function, *args)

    def statistics(self) -> Statistics:
        return Statistics(
            active=self.active,
            queued=0,
            held=0,
            max_streams=self.max_streams,
            max_queue=0,
            draining=self.draining,
            measured_rtf=0.2,
            stream_bytes=1,
            memory_bytes=self.active,
            memory_limit=10,
            admitted=0,
            done=0,
            cancelled=0,
            failed=0,
            refused=0,
            errors={},
            audio_seconds=0.0,
            busy_seconds=1.5,
            steps=10,
            rows=20,
            caches={},
            retry_after=3.0,
        )

    async def drain(self, seconds: float | None = None) -> None:
        self.draining, self.ready = True, False
        while self.active:
            await asyncio.sleep(0.01)


class FakeStream:
    """A Stream of FakeService's."""

    def __init__(self, service: FakeService, request: SpeechRequest) -> None:
        self._service, self._request = service, request
        self._chunks: AsyncIterator[AudioChunk] = self._make()
        self._open = False
        self.report = Report(
            id="fake",
            outcome="running",
            error="",
            timings=Timings(),
            first=None,
            chunks=0,
            underruns=0,
            slacks=(),
            cached=False,
        )

    async def __aenter__(self) -> FakeStream:
        if self._service.draining:
            raise StoppingError("This server is shutting down.", retry_after=2.0)
        if self._service.active >= self._service.max_streams:
            raise BusyError("All places are taken: try again in 3 s.", retry_after=3.0)
        self._service.active += 1
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._open:
            self._open = False
            self._service.active -= 1
            self._service.freed.append(time.monotonic())

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> AudioChunk:
        return await anext(self._chunks)

    async def _make(self) -> AsyncIterator[AudioChunk]:
        text = self._request.text
        assert isinstance(text, str)
        started = time.perf_counter()
        count = max(1, len(text) // 10)
        if "!refuse" in text:
            raise EngineError("The model failed on this text.")
        for index in range(count):
            if index and "!fail" in text:
                raise EngineError("The model failed on this text.")
            if index and "!boom" in text:
                raise ZeroDivisionError("a secret of the inside")
            if "!slow" in text:
                await asyncio.sleep(self._service.slow)
            at = np.arange(round(self._service.chunk_seconds * RATE)) + index * round(
                self._service.chunk_seconds * RATE
            )
            samples = 0.3 * np.sin(2 * np.pi * 440 * at / RATE).astype(np.float32)
            now = time.perf_counter() - started
            timings = Timings(
                queue=0.001,
                front_end=0.002,
                lm_decode=0.003,
                flow=0.004,
                vocoder=0.005,
                elapsed=now,
                ttfa=0.02,
                audible_ttfa=0.03,
                total=0.014,
                audio_seconds=(index + 1) * self._service.chunk_seconds,
                lm_tokens=5 * (index + 1),
            )
            slacks = (*self.report.slacks, *([0.5] if index else []))
            self.report = replace(self.report, timings=timings, chunks=index + 1, slacks=slacks)
            yield AudioChunk(samples, RATE, index, index == count - 1, timings)
