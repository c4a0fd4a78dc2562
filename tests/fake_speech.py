"""A server of OpenAI's speech route and of Fireside's WebSocket that says what it is told to, when it is told to."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import web

RATE = 24000


def tone(seconds: float, silent: float = 0.0) -> bytes:
    """Int16 audio that is quiet for so long, then loud."""
    samples = np.full(round(seconds * RATE), 8000, "<i2")
    samples[: round(silent * RATE)] = 30  # below -40 dBFS
    return samples.tobytes()


@dataclass
class FakeSpeech:
    """pieces: (seconds to wait, bytes to send). ending: done; cut (the connection breaks); error (as an event)."""

    pieces: list[tuple[float, bytes]] = field(default_factory=lambda: [(0.05, tone(0.3)), (0.05, tone(0.3))])
    ending: str = "done"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    authorization: list[str | None] = field(default_factory=list)
    typed: list[tuple[float, str]] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    gone: int = 0
    """Listeners who went away before the end."""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/audio/speech", self.speech)
        app.router.add_get("/v1/audio/stream", self.stream)
        return app

    async def speech(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.authorization.append(request.headers.get("Authorization"))
        self.connections.add(request.transport)
        if self.status != 200:
            error = {"error": {"message": "It is full.", "type": "busy", "param": None, "code": "busy"}}
            return web.json_response(error, status=self.status, headers=self.headers)
        response = web.StreamResponse(headers=self.headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            if body["response_format"] == "wav":
                header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 2**32 - 1, b"WAVE", b"fmt ", 16, 1, 1, RATE,
                                     2 * RATE, 2, 16, b"data", 2**32 - 1)  # fmt: skip
                await response.write(header)
            for wait, data in self.pieces:
                await asyncio.sleep(wait)
                await response.write(self._wrapped(body, data))
            if self.ending == "cut":
                assert request.transport is not None
                request.transport.abort()
            elif body.get("stream_format") == "sse":
                await response.write(self._last())
        except (ConnectionError, asyncio.CancelledError):
            self.gone += 1
            raise
        return response

    def _wrapped(self, body: dict[str, Any], data: bytes) -> bytes:
        if body.get("stream_format") != "sse":
            return data
        return _event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})

    def _last(self) -> bytes:
        if self.ending == "error":
            return _event({"type": "error", "error": {"message": "The model failed."}})
        return _event(
            {"type": "speech.audio.done", "usage": {}, "fireside": {"timings": {"queue": 0.5, "lm_decode": 1}}}
        )

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections.add(request.transport)
        await socket.send_json({"type": "ready", "protocol": "fireside.v1", "sample_rate": RATE})
        async for message in socket:
            said = json.loads(message.data)
            if said["type"] == "start":
                self.bodies.append(said)
                if self.status != 200:
                    await socket.send_json({"type": "error", "error": {"message": "It is full.", "retry_after": 3}})
                    continue
                await socket.send_json({"type": "started", "sample_rate": RATE})
            elif said["type"] == "text":
                self.typed.append((asyncio.get_running_loop().time(), said["text"]))
            elif said["type"] == "end" and self.status == 200:
                for wait, data in self.pieces:
                    await asyncio.sleep(wait)
                    await socket.send_json({"type": "audio"})
                    await socket.send_bytes(data)
                if self.ending == "cut":
                    await socket.close(code=1011)
                else:
                    await socket.send_json({"type": "done", "timings": {"queue": 0.5}})
        return socket


def _event(body: dict[str, Any]) -> bytes:
    return f"event: {body['type']}\r\ndata: {json.dumps(body)}\r\n\r\n".encode()


@asynccontextmanager
async def serving(fake: FakeSpeech) -> AsyncIterator[str]:
    """The URL of a fake server in this event loop."""
    runner = web.AppRunner(fake.app(), handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def serving_beside(fake: FakeSpeech) -> Iterator[str]:
    """The URL of a fake server in a thread of its own."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    address: list[str] = []
    over = asyncio.Event()

    async def serve() -> None:
        async with serving(fake) as url:
            address.append(url)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait(10)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
