"""Every server in a thread of the test's own, on free ports: HTTP, WebSocket and gRPC over one service."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import fake_service
import numpy as np
from fake_service import RATE

from fireside import Fireside
from fireside.engine.service import Limits, Service
from fireside.engine.stream import FLUSH, Flush
from fireside.errors import EngineError
from fireside.request import AudioChunk, SpeechRequest, Timings
from fireside.serve import run
from fireside.serve.auth import Keys
from fireside.serve.config import ServeConfig
from fireside.serve.context import Server
from fireside.serve.limits import Limits as ClientLimits
from fireside.serve.metrics import Metrics

FAILS = "Kaboom"
"""A sentence with this word makes the stand-in's model fail."""


@dataclass
class TalkingService(fake_service.FakeService):
    """Takes text in parts: every sentence is a chunk of a tone, as long as it has characters."""

    max_streams: int = 8
    character_seconds: float = 0.01

    def stream(
        self, request: SpeechRequest, *, text: AsyncIterable[str | Flush] | None = None, id: str | None = None
    ) -> fake_service.FakeStream:
        return _TalkingStream(self, request, text)


class _TalkingStream(fake_service.FakeStream):
    def __init__(
        self, service: TalkingService, request: SpeechRequest, text: AsyncIterable[str | Flush] | None
    ) -> None:
        super().__init__(service, request)
        self._seconds, self._text = service.character_seconds, text

    async def _make(self) -> AsyncIterator[AudioChunk]:
        index, seconds, sentence = 0, 0.0, ""
        async for part in self._parts():
            for character in [part] if isinstance(part, Flush) else part:
                if isinstance(character, str):
                    sentence += character
                if sentence and (character is FLUSH or character in ".!?。"):
                    if FAILS in sentence:
                        raise EngineError("The model failed on this text: try again with another seed.")
                    seconds += len(sentence) * self._seconds
                    yield self._chunk(sentence, index, seconds, final=False)
                    index, sentence = index + 1, ""
        yield self._chunk(sentence, index, seconds + len(sentence) * self._seconds, final=True)

    async def _parts(self) -> AsyncIterator[str | Flush]:
        if self._text is None:
            yield str(self._request.text)
            return
        async for part in self._text:
            yield part

    def _chunk(self, sentence: str, index: int, seconds: float, final: bool) -> AudioChunk:
        time = np.arange(round(len(sentence) * self._seconds * RATE)) / RATE
        samples = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
        timings = Timings(ttfa=0.1, audible_ttfa=0.1, total=0.2, audio_seconds=seconds)
        self.report = replace(self.report, chunks=index + 1, timings=timings)
        return AudioChunk(samples, RATE, index, final, timings)


@dataclass(frozen=True)
class Live:
    """A server that runs: where, and what is inside."""

    port: int
    grpc_port: int
    server: Server
    stop: Callable[[], None]
    """As SIGTERM does."""
    thread: threading.Thread


@contextmanager
def live(
    tts: Fireside, make_service: Callable[[Fireside], Awaitable[Any]], keys: dict[str, str] | None = None, **config: Any
) -> Iterator[Live]:
    """Run every server, with a service that is made in their event loop."""
    started: list[Live | BaseException] = []
    ready = threading.Event()

    async def main() -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        settings = ServeConfig(grpc_port=0, **config)
        service = await make_service(tts)
        metrics = Metrics(service, "0", tts.name)
        server = Server(settings, tts, service, Keys(keys or {}), ClientLimits(settings), metrics)

        def stop() -> None:
            if thread.is_alive():
                loop.call_soon_threadsafe(stopping.set)

        def announce(where: str) -> None:
            grpc_port = int(where.split("gRPC on ")[1].split()[0].rpartition(":")[2])
            started.append(Live(listening.getsockname()[1], grpc_port, server, stop, thread))
            ready.set()

        with socket.create_server(("127.0.0.1", 0)) as listening:
            try:
                await run._listen(server, listening, stopping, announce)
            finally:
                if isinstance(service, Service):
                    await service.close()

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            started.append(error)
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ready.wait(60)
    running = started[0] if started else TimeoutError("The server did not start.")
    if isinstance(running, BaseException):
        raise running
    try:
        yield running
    finally:
        running.stop()
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"


async def talking_service(tts: Fireside) -> TalkingService:
    """A stand-in as `live` wants it."""
    return TalkingService()


async def real_service(tts: Fireside) -> Service:
    """The service itself, as `live` wants it."""
    service = Service(tts.engine, Limits(max_streams=4, stall_seconds=2.0))
    await service.start()
    return service
