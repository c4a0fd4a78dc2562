"""One request for speech and its one listener: admitted, timed, counted, logged and freed, whatever the protocol."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from fireside.request import AudioChunk, SpeechRequest, Timings
from fireside.serve.auth import Client
from fireside.serve.problems import code_of

if TYPE_CHECKING:
    from fireside.engine.stream import Flush
    from fireside.serve.context import Server

_log = logging.getLogger("fireside.serve")

Dialect = Literal["openai", "cosyvoice", "fork", "websocket", "grpc", "http"]
Outcome = Literal["done", "cancelled", "failed", "refused"]


@dataclass(frozen=True)
class Listener:
    """Who asked, how, under which id, and since when (time.perf_counter); traceparent is W3C's header."""

    client: Client
    protocol: Dialect
    request_id: str
    began: float
    traceparent: str | None = None


class Reports:
    """What became of the last requests, for the client that made them."""

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._reports: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()

    def add(self, listener: Listener, report: dict[str, Any]) -> None:
        """Keep a report; a newer one under the same id takes its place, the oldest goes when there are too many."""
        key = (listener.client.name, listener.request_id)
        self._reports[key] = report
        self._reports.move_to_end(key)
        if len(self._reports) > self._most:
            self._reports.popitem(last=False)

    def get(self, client: Client, request_id: str) -> dict[str, Any] | None:
        """The report of a client's request; None when there is none, or no more."""
        return self._reports.get((client.name, request_id))


class Speaking:
    """The chunks of one request. Use as `async with`, then `async for`.

    Entering waits for a place and raises what is wrong with the request (see Service.stream); leaving frees everything
    at once, however it is left. Whoever sends the audio says how long that took: `encoded` and `written`."""

    def __init__(
        self,
        server: Server,
        request: SpeechRequest,
        listener: Listener,
        notes: tuple[str, ...] = (),
        text: AsyncIterable[str | Flush] | None = None,
    ) -> None:
        self.request, self.listener, self.notes = request, listener, notes
        self._stream = server.service.stream(request, text=text)
        self._server = server
        self._held = ExitStack()
        self._prepared = 0.0
        self._encode = self._write = 0.0
        self._latest: Timings | None = None
        self._first: Timings | None = None
        self._finished = False

    @property
    def timings(self) -> Timings:
        """Those of the chunk that came last, with what was done before and behind the engine.

        What came before, such as a recording's turn to be analysed, is front end; `total` is engine and encoder."""
        if self._latest is None:
            return self._stream.report.timings
        timings = self._latest.plus(
            front_end=self._prepared, encode=self._encode, write=self._write, total=self._encode
        )
        first = self._first
        return replace(
            timings,
            elapsed=time.perf_counter() - self.listener.began,
            ttfa=first.ttfa if first else timings.ttfa + self._prepared,
            audible_ttfa=timings.audible_ttfa + (first.ttfa - timings.ttfa if first else self._prepared),
        )

    def encoded(self, seconds: float) -> None:
        """Encoding took so long."""
        self._encode += seconds

    def written(self, seconds: float) -> None:
        """Handing bytes to the network took so long; the first call marks the first audio."""
        self._write += seconds
        if self._first is None and self._latest is not None:
            self._first = replace(self.timings, ttfa=time.perf_counter() - self.listener.began)

    async def __aenter__(self) -> Speaking:
        self._prepared = time.perf_counter() - self.listener.began
        try:
            self._held.enter_context(self._server.limits.stream(self.listener.client))
            await self._stream.__aenter__()
        except BaseException as error:
            self._end("cancelled" if _is_leaving(error) else "refused", error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._stream.__aexit__(kind, error, traceback)
        finally:
            if error is not None and not _is_leaving(error):
                self._end("failed", error)
            else:
                self._end("done" if self._finished else "cancelled", error)

    def __aiter__(self) -> Speaking:
        return self

    async def __anext__(self) -> AudioChunk:
        chunk = await self._stream.__anext__()
        self._latest = chunk.timings
        self._finished = chunk.final
        return chunk

    def _end(self, outcome: Outcome, error: BaseException | None) -> None:
        self._held.close()
        listener, report, timings = self.listener, self._stream.report, self.timings
        code = code_of(type(error)) if outcome in ("failed", "refused") and error is not None else ""
        rounded = {name: round(seconds, 4) for name, seconds in split_of(timings).items()}
        facts: dict[str, str | int | float] = {
            "request_id": listener.request_id,
            "client": listener.client.name,
            "protocol": listener.protocol,
            "outcome": outcome,
            "error": code,
            "voice": self.request.voice.name,
            "seed": self.request.seed or 0,
            "chunks": report.chunks,
            "underruns": report.underruns,
            "cached": report.cached,
        }
        self._server.metrics.ended(listener.protocol, outcome, report, timings, self._first)
        self._server.tracer.ended(listener.traceparent, facts, timings, self._first)
        self._server.reports.add(listener, {**facts, "timings": rounded, "notes": list(self.notes)})
        first = {} if self._first is None else {name: round(each, 4) for name, each in self._first.split.items()}
        _log.info("speech", extra={**facts, **rounded, "first_audio": first})


def split_of(timings: Timings) -> dict[str, float]:
    """All of a request's times by name, in seconds but for `rtf` and the count `lm_tokens`."""
    return {
        **timings.split,
        "ttfa": timings.ttfa,
        "audible_ttfa": timings.audible_ttfa,
        "total": timings.total,
        "audio_seconds": timings.audio_seconds,
        "rtf": timings.rtf if timings.audio_seconds else 0.0,
        "lm_tokens": timings.lm_tokens,
    }


def _is_leaving(error: BaseException) -> bool:
    """Whether that is how a client's going away looks from the inside."""
    return isinstance(error, asyncio.CancelledError | GeneratorExit | ConnectionError)
