"""Our own service for speech: text in parts in, audio out while it still comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from fireside.errors import UsageError
from fireside.serve.encode import Encoder
from fireside.serve.grpc import fireside_pb2, fireside_pb2_grpc
from fireside.serve.grpc.calls import Context, answering
from fireside.serve.parts import TextParts
from fireside.serve.patience import patiently
from fireside.serve.pieces import pieces
from fireside.serve.speaking import split_of

if TYPE_CHECKING:
    from fireside.request import Timings
    from fireside.serve.context import Server
    from fireside.voices import Voice

Requests = AsyncIterator[fireside_pb2.SpeakRequest]


class Speech(fireside_pb2_grpc.SpeechServicer):
    """See fireside.proto."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def Speak(self, request_iterator: Requests, context: Context) -> None:
        """Speak one utterance; its text is taken in by a task beside the one that sends its audio."""
        async with answering(self._server, context) as call:
            server = self._server
            requests = _read(request_iterator)
            start = await self._start(requests)
            if start.model:
                server.check_model(start.model)
            encoder = Encoder(start.format or "pcm", server.tts.sample_rate)
            voice, notes = await self._voice(start)
            request = await server.request(
                None,
                voice,
                instruction=start.instruction or None,
                speed=start.speed or 1.0,
                seed=start.seed if start.HasField("seed") else None,
                streaming=True,
            )
            started = fireside_pb2.Started(
                request_id=call.listener.request_id,
                voice=request.voice.name,
                seed=request.seed,
                sample_rate=encoder.sample_rate,
                format=encoder.name,
                notes=notes,
            )
            parts = TextParts(server.config.max_text)
            reading = asyncio.create_task(_take_in(requests, parts))
            seconds = 0.0
            try:
                async with server.speak(request, call.listener, notes, text=parts) as speaking:
                    await call.send(fireside_pb2.SpeakResponse(started=started))
                    async for piece in pieces(speaking, encoder):
                        audio = fireside_pb2.Audio(
                            data=piece.data,
                            index=piece.index,
                            start=piece.start,
                            seconds=piece.seconds,
                            progress=piece.progress,
                        )
                        began = time.perf_counter()
                        await call.send(fireside_pb2.SpeakResponse(audio=audio))
                        speaking.written(time.perf_counter() - began)
                        seconds += piece.seconds
                    done = fireside_pb2.Done(audio_seconds=seconds, timings=_timings(speaking.timings))
                    await call.send(fireside_pb2.SpeakResponse(done=done))
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _start(self, requests: Requests) -> fireside_pb2.Start:
        """The first message. Raises UsageError when it is another one, StalledError when it does not come."""
        patience = self._server.config.idle_timeout
        first = await patiently(
            anext(requests, None), patience, f"Nothing was asked for {patience:g} s: the call was ended."
        )
        if first is None or first.WhichOneof("message") != "start":
            raise UsageError("The first message of a call must be `start`.")
        return first.start

    async def _voice(self, start: fireside_pb2.Start) -> tuple[str | Voice, tuple[str, ...]]:
        """Who is to speak, and what to know about the prompt."""
        if not start.HasField("prompt"):
            return start.voice, ()
        if start.voice:
            raise UsageError("Give a voice or a prompt, not both.")
        return await self._server.voice_of(start.prompt.audio, start.prompt.text or None)


async def _read(messages: Requests) -> Requests:
    """The client's messages. Raises UsageError for bytes that are none."""
    try:
        async for message in messages:
            yield message
    except DecodeError as error:
        raise UsageError("A message is not a SpeakRequest: make the client's code from our fireside.proto.") from error


async def _take_in(requests: Requests, parts: TextParts) -> None:
    """Take in the text, until the client has closed its side."""
    try:
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "text":
                parts.push(request.text)
            elif kind == "flush":
                parts.flush()
            else:
                raise UsageError("After `start` only `text` and `flush` may follow, one utterance a call.")
        parts.end()
    except UsageError as error:
        parts.fail(error)


def _timings(timings: Timings) -> fireside_pb2.Timings:
    known = fireside_pb2.Timings.DESCRIPTOR.fields_by_name
    split: dict[str, Any] = {name: value for name, value in split_of(timings).items() if name in known}
    return fireside_pb2.Timings(**split)
