"""The client of Fireside's WebSocket: text goes in, all at once or as somebody types it, audio comes out."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiohttp

from fireside.evaluate.latency.client import SILENCE, Arrival, Broken, Client, Pcm, Refused
from fireside.evaluate.latency.openai import numbers, open_session

PATH = "/v1/audio/stream"
_FRESH = 10.0  # seconds for which a connection may be idle: nobody answers the server's pings meanwhile
_AT_ONCE = aiohttp.ClientWSTimeout(ws_close=0.0)  # says goodbye and goes, without waiting for the server to agree


class WebSocketClient(Client):
    """Connections are kept and take one utterance after another; one that is left in the middle is closed.

    url: the server's root. words_per_second: the pace at which the text goes in, word by word; 0 sends all of it at
    once. Times then count from its first word. A Chinese character counts as a word.
    """

    def __init__(
        self,
        url: str,
        model: str,
        voice: str,
        sample_rate: int = 24000,
        key: str | None = None,
        words_per_second: float = 0.0,
    ) -> None:
        self._url = re.sub("^http", "ws", url.rstrip("/").removesuffix("/v1")) + PATH
        self._start = {"type": "start", "model": model, "voice": voice, "format": "pcm"}
        self._pace, self.sample_rate = words_per_second, sample_rate
        self._session = open_session(key)
        self._idle: list[tuple[float, aiohttp.ClientWebSocketResponse]] = []

    async def speak(self, text: str) -> AsyncIterator[Arrival]:
        connection = await self._connection()
        typist = asyncio.create_task(self._type(connection, text))
        done = False
        try:
            async for arrival in self._hear(connection):
                done = arrival.report is not None
                yield arrival
        finally:
            typist.cancel()
            await asyncio.gather(typist, return_exceptions=True)  # a connection that broke is noticed by who hears
            if done:
                self._idle.append((time.monotonic(), connection))
            else:
                with suppress(ConnectionError, aiohttp.ClientError):  # the server may have gone first
                    await connection.close()

    async def close(self) -> None:
        for _, connection in self._idle:
            await connection.close()
        await self._session.close()

    async def _connection(self) -> aiohttp.ClientWebSocketResponse:
        while self._idle:
            since, connection = self._idle.pop()
            if not connection.closed and time.monotonic() - since < _FRESH:
                return connection
            await connection.close()
        try:
            connection = await self._session.ws_connect(self._url, max_msg_size=0, timeout=_AT_ONCE)
            await connection.receive(timeout=10)  # "ready"
        except aiohttp.WSServerHandshakeError as problem:
            raise Refused(problem.status, problem.message) from problem
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as problem:
            raise Refused(type(problem).__name__, str(problem)) from problem
        return connection

    async def _type(self, connection: aiohttp.ClientWebSocketResponse, text: str) -> None:
        await connection.send_json(self._start)
        if self._pace:
            for word in re.findall(r"[一-鿿]|\s*[^\s一-鿿]+\s*", text):
                await connection.send_json({"type": "text", "text": word})
                await asyncio.sleep(1 / self._pace)
        else:
            await connection.send_json({"type": "text", "text": text})
        await connection.send_json({"type": "end"})

    async def _hear(self, connection: aiohttp.ClientWebSocketResponse) -> AsyncIterator[Arrival]:
        pcm, started = Pcm(), False
        async for message in connection:
            if message.type is aiohttp.WSMsgType.BINARY:
                yield Arrival(pcm.samples(message.data))
                continue
            try:
                said = json.loads(message.data)
                kind, error = said["type"], said.get("error", {})
            except (ValueError, KeyError, TypeError, AttributeError) as problem:
                raise Broken(f"not a message of the protocol: {message.data[:80]!r}") from problem
            if kind == "started":
                started = True
            elif kind == "error":
                raise Broken(str(error.get("message"))) if started else _refused(error)
            elif kind == "done":
                yield Arrival(SILENCE, report=numbers(said.get("timings")))
                return
        raise Broken(f"the server closed the connection with {connection.close_code}")


def _refused(error: dict[str, Any]) -> Refused:
    wait = error.get("retry_after")
    return Refused(429 if wait is not None else str(error.get("code")), str(error.get("message")), wait)
