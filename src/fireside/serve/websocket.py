"""Speech over a WebSocket: text goes in as it is written, audio comes out while it still comes.

A connection speaks one utterance after another. `messages.py` has the protocol; docs/serving.md explains it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from fireside.errors import FiresideError, StalledError, StoppingError, UsageError
from fireside.serve import messages
from fireside.serve.auth import Client, bearer, check_origin
from fireside.serve.encode import Encoder
from fireside.serve.messages import PROTOCOL, MessageError, ServerMessage, read_message
from fireside.serve.parts import TextParts
from fireside.serve.patience import patiently
from fireside.serve.pieces import pieces
from fireside.serve.speaking import Listener, split_of

if TYPE_CHECKING:
    from fireside.serve.context import Server

PATH = "/v1/audio/stream"

STALLED = 4408
"""Close code: text was awaited and nothing came. Codes from 4000 on are an application's own."""

_GONE = 1006  # the client's end is closed already
_KEY = "bearer."  # subprotocol that carries a key: browsers can set no header
_REASON_BYTES = 123  # most that a close frame's reason may have

_log = logging.getLogger(__name__)


def routes(server: Server) -> list[BaseRoute]:
    """The WebSocket, to be put into an application."""

    async def speech(websocket: WebSocket) -> None:
        try:
            client = _admit(websocket, server)
        except FiresideError as error:
            problem = server.explain(error, "websocket", "")
            await websocket.send_denial_response(JSONResponse(problem.body, problem.status, problem.headers))
            return
        await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None)
        await _Session(websocket, server, client).run()

    return [WebSocketRoute(PATH, speech)]


def _admit(websocket: WebSocket, server: Server) -> Client:
    """The client, if it may come in. Raises AuthError, OriginError or StoppingError."""
    if server.draining:
        raise StoppingError("This server is shutting down: connect to another one, or again in a moment.")
    # Browsers let any page open a WebSocket to any server: nothing but this check keeps a strange page from speaking
    # with a server on its reader's own machine.
    check_origin(websocket.headers.get("origin"), websocket.headers.get("host"), server.config.cors)
    offered = [name for name in websocket.scope["subprotocols"] if name.startswith(_KEY)]
    key = offered[0].removeprefix(_KEY) if offered else bearer(websocket.headers.get("authorization"))
    return server.keys.check(key)


class _Closing(Exception):
    """The connection is to end, with this close code and reason."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class UtteranceOpenError(UsageError):
    """An utterance is begun while another one is being spoken."""


class NoUtteranceError(UsageError):
    """Text that belongs to no utterance."""


class _Utterance:
    """What is being spoken: as it was asked for, its text while it comes, and the task that speaks it."""

    def __init__(self, start: messages.Start, listener: Listener, max_text: int) -> None:
        self.start, self.listener = start, listener
        self.parts = TextParts(max_text)
        self.seconds = 0.0
        """Of its audio, sent so far."""
        self.open = True
        """False from when the client is told how it ended."""
        self.task: asyncio.Task[None] | None = None


class _Session:
    """One connection. What it holds is freed when `run` ends, however it ends."""

    def __init__(self, websocket: WebSocket, server: Server, client: Client) -> None:
        self._websocket, self._server, self._client = websocket, server, client
        self._utterance: _Utterance | None = None
        self._writing = asyncio.Lock()
        self._closing: asyncio.Future[_Closing] = asyncio.get_running_loop().create_future()
        self._last = False
        """Whether the client asked to close once all is spoken."""
        self._unread = False
        """Whether the client has stopped reading."""

    async def run(self) -> None:
        reading = asyncio.create_task(self._until_closing(self._read))
        try:
            closing = await self._closing
            await self._stop()
            await self._close(closing)
        except (WebSocketDisconnect, StalledError):
            pass  # nobody is there to be told
        finally:
            reading.cancel()
            await asyncio.gather(reading, self._stop(), return_exceptions=True)

    async def _until_closing(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do work of this session; what ends it in the midst ends the connection.

        It is begun here: a task that is cancelled at once never comes here, and leaves nothing that was not awaited.
        """
        try:
            await work()
        except _Closing as closing:
            self._end(closing)
        except WebSocketDisconnect:
            self._end(_Closing(_GONE))
        except StalledError as error:
            self._end(_Closing(1008, str(error)))
        except Exception:
            _log.exception("A WebSocket session failed.")
            self._end(_Closing(1011, "The server failed; its log says why."))

    def _end(self, closing: _Closing) -> None:
        if not self._closing.done():
            self._closing.set_result(closing)

    async def _close(self, closing: _Closing) -> None:
        if closing.code == _GONE:
            return
        reason = closing.reason.encode()[:_REASON_BYTES].decode(errors="ignore")
        await self._write(self._websocket.close(closing.code, reason))

    # What comes in

    async def _read(self) -> None:
        await self._send(messages.Ready(model=self._server.tts.name, sample_rate=self._server.tts.sample_rate))
        while True:
            event = await self._websocket.receive()
            if event["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(event.get("code", 1005))
            text = event.get("text")
            try:
                if text is None:
                    raise MessageError("Binary frames are not understood: send JSON in text frames.", 1003)
                await self._take(read_message(text))
            except MessageError as error:
                await self._stop()
                await self._tell(error)
                raise _Closing(error.close_code, str(error)) from error
            except UsageError as error:
                await self._tell(error)

    async def _take(self, message: messages.ClientMessage) -> None:
        """Do what a message asks. Raises UsageError for one that cannot be taken now."""
        if isinstance(message, messages.Start):
            await self._begin(message)
        elif isinstance(message, messages.Cancel):
            await self._cancel()
        elif isinstance(message, messages.Close):
            self._last = True
            if self._utterance is None or not self._utterance.open:
                raise _Closing(1000)
            self._utterance.parts.end()
        elif self._utterance is None:
            raise NoUtteranceError("There is no utterance that this belongs to: send a message of type start first.")
        elif self._utterance.open:  # else it crossed the end of its utterance on the way
            if isinstance(message, messages.Text):
                self._utterance.parts.push(message.text)
            elif isinstance(message, messages.Flush):
                self._utterance.parts.flush()
            else:
                self._utterance.parts.end()

    async def _begin(self, start: messages.Start) -> None:
        before = self._utterance
        if self._last or (before is not None and before.open):
            raise UtteranceOpenError(
                "An utterance is still being spoken: wait until it is done, cancel it, or use another connection."
            )
        if before is not None and before.task is not None:
            await asyncio.wait([before.task])  # the client was told, and is quicker than the end of the task
        listener = self._server.listener(
            self._client, "websocket", traceparent=self._websocket.headers.get("traceparent")
        )
        utterance = _Utterance(start, listener, self._server.config.max_text)
        utterance.task = asyncio.create_task(self._until_closing(partial(self._speak, utterance)))
        self._utterance = utterance

    async def _cancel(self) -> None:
        utterance = self._utterance
        if utterance is None or not utterance.open:
            return
        await self._stop()
        utterance.open = False
        await self._send(messages.Cancelled(id=utterance.start.id, audio_seconds=round(utterance.seconds, 6)))
        if self._last:
            raise _Closing(1000)

    async def _stop(self) -> None:
        """Free all that is kept for the utterance."""
        task = self._utterance.task if self._utterance is not None else None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    # What goes out

    async def _speak(self, utterance: _Utterance) -> None:
        """Speak an utterance and tell how it ended."""
        try:
            await self._stream(utterance)
        except WebSocketDisconnect:
            raise
        except Exception as error:
            if self._unread:
                raise _Closing(1008, str(error)) from error
            utterance.open = False
            await self._tell(error, utterance)
            if isinstance(error, StalledError):
                raise _Closing(STALLED, str(error)) from error
            if isinstance(error, StoppingError):
                raise _Closing(1001, str(error)) from error
        if self._last:
            raise _Closing(1000)

    async def _stream(self, utterance: _Utterance) -> None:
        server, start, listener = self._server, utterance.start, utterance.listener
        if start.model is not None:
            server.check_model(start.model)
        encoder = Encoder(start.format, server.tts.sample_rate)
        request = await server.request(
            None, start.voice, instruction=start.instruction, speed=start.speed, seed=start.seed, streaming=True
        )
        async with server.speak(request, listener, text=utterance.parts) as speaking:
            await self._send(
                messages.Started(
                    id=start.id,
                    request_id=listener.request_id,
                    voice=request.voice.name,
                    format=start.format,
                    sample_rate=encoder.sample_rate,
                    seed=request.seed or 0,
                )
            )
            async for piece in pieces(speaking, encoder):
                header = messages.Audio(
                    id=start.id,
                    index=piece.index,
                    start=round(piece.start, 6),
                    seconds=round(piece.seconds, 6),
                    progress=round(piece.progress, 3),
                )
                began = time.perf_counter()
                await self._send(header, piece.data)
                speaking.written(time.perf_counter() - began)
                utterance.seconds += piece.seconds
            utterance.open = False
            times = {name: round(value, 6) for name, value in split_of(speaking.timings).items()}
            # Inside: a server that shuts down waits for this, too.
            await self._send(messages.Done(id=start.id, audio_seconds=round(utterance.seconds, 6), timings=times))

    async def _tell(self, error: Exception, utterance: _Utterance | None = None) -> None:
        """Say what went wrong with an utterance, which is over, or with a message that belongs to none."""
        request_id = "" if utterance is None else utterance.listener.request_id
        problem = self._server.explain(error, "websocket", request_id)
        await self._send(
            messages.Failed(
                id=None if utterance is None else utterance.start.id,
                error=messages.Problem(
                    message=problem.message,
                    type=problem.type,
                    code=problem.code,
                    param=problem.param,
                    retry_after=problem.retry_after,
                ),
            )
        )

    async def _send(self, message: ServerMessage, audio: bytes | None = None) -> None:
        """Send a message, and the audio that belongs to it. Raises StalledError when the client does not read."""
        async with self._writing:
            await self._write(self._websocket.send_text(message.model_dump_json(exclude_none=True)))
            if audio is not None:
                await self._write(self._websocket.send_bytes(audio))

    async def _write(self, sending: Awaitable[None]) -> None:
        patience = self._server.config.write_timeout
        try:
            await patiently(sending, patience, f"The audio was not read for {patience:g} s: the connection is closed.")
        except StalledError:
            self._unread = True
            raise
