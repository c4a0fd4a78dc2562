"""Audio as an HTTP answer: sent while it is made, or whole; plain, or as server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fireside.serve.context import Server
from fireside.serve.encode import Encoder
from fireside.serve.patience import patiently
from fireside.serve.pieces import pieces
from fireside.serve.speaking import Speaking, split_of


class AudioResponse(Response):
    """The answer that speaks a request: as audio, or in server-sent events of OpenAI's.

    Nothing is sent before the first audio is there, so that what is wrong with the request still gets its status. An
    error after that is an `error` event, or the connection closed before the audio's end. When the client goes away,
    everything is freed at once."""

    def __init__(self, server: Server, speaking: Speaking, encoder: Encoder, events: bool = False) -> None:
        self.media_type = "text/event-stream" if events else encoder.media_type
        super().__init__()
        self.speaking = speaking
        self._server, self._encoder, self._events = server, encoder, events
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        talk = asyncio.create_task(self._talk(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({talk, gone}, return_when=asyncio.FIRST_COMPLETED)
            if talk.done():
                talk.result()
        finally:
            for task in (talk, gone):
                task.cancel()
            await asyncio.gather(talk, gone, return_exceptions=True)

    async def _talk(self, send: Send) -> None:
        try:
            async with self.speaking:
                await self._say(send)
        except Exception as error:
            if not self._begun:
                raise
            listener = self.speaking.listener
            problem = self._server.explain(error, listener.protocol, listener.request_id)
            if self._events:
                await self._put(send, _event("error", {"type": "error", **problem.body}))
                await self._close(send)

    async def _say(self, send: Send) -> None:
        whole = self._encoder.whole
        async for piece in pieces(self.speaking, self._encoder):
            data = self._framed(piece.data)
            if whole:
                data += self._ending()
                await self._write(send, data, len(data))
            else:
                await self._write(send, data)
        if not whole:
            await self._write(send, self._ending())
        await self._close(send)

    async def _write(self, send: Send, data: bytes, length: int | None = None) -> None:
        started = time.perf_counter()
        if not self._begun:
            await self._begin(send, length)
        await self._put(send, data)
        self.speaking.written(time.perf_counter() - started)

    def _framed(self, data: bytes) -> bytes:
        if not self._events:
            return data
        audio = base64.b64encode(data).decode()
        return _event("speech.audio.delta", {"type": "speech.audio.delta", "audio": audio})

    def _ending(self) -> bytes:
        if not self._events:
            return b""
        speaking, timings = self.speaking, self.speaking.timings
        heard = len(speaking.request.text) if isinstance(speaking.request.text, str) else 0
        done = {
            "type": "speech.audio.done",
            "usage": {
                "input_tokens": heard,
                "output_tokens": timings.lm_tokens,
                "total_tokens": heard + timings.lm_tokens,
            },
            "fireside": {
                "request_id": speaking.listener.request_id,
                "sample_rate": self._encoder.sample_rate,
                "seed": speaking.request.seed,
                "notes": list(speaking.notes),
                "timings": {name: round(value, 6) for name, value in split_of(timings).items()},
            },
        }
        return _event("speech.audio.done", done)

    async def _begin(self, send: Send, length: int | None = None) -> None:
        """The status and the headers, with the split of the first-audio time."""
        timings = self.speaking.timings
        times = {**timings.split, "ttfa": time.perf_counter() - self.speaking.listener.began}
        self.headers["Server-Timing"] = ", ".join(f"{name};dur={1000 * value:.1f}" for name, value in times.items())
        self.headers["X-Sample-Rate"] = str(self._encoder.sample_rate)
        self.headers["X-Seed"] = str(self.speaking.request.seed)
        self.headers["Cache-Control"] = "no-store"
        self.headers["X-Accel-Buffering"] = "no"  # nginx would wait for the end
        if length is None:
            del self.headers["Content-Length"]
        else:
            self.headers["Content-Length"] = str(length)
        self._begun = True
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    async def _put(self, send: Send, data: bytes) -> None:
        """Hand bytes over; waits while the client does not read, but not for ever."""
        patience = self._server.config.write_timeout
        sentence = f"The audio was not read for {patience:g} s: the request was ended."
        await patiently(send({"type": "http.response.body", "body": data, "more_body": True}), patience, sentence)

    @staticmethod
    async def _close(send: Send) -> None:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _event(kind: str, content: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


async def _gone(receive: Receive) -> None:
    """Wait until the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
