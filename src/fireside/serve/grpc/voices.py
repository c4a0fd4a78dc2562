"""Our own service for voices: list, show, add, delete."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fireside.errors import UsageError
from fireside.serve.grpc import fireside_pb2, fireside_pb2_grpc
from fireside.serve.grpc.calls import Context, answering
from fireside.voices import DEFAULT, check_name

if TYPE_CHECKING:
    from fireside.serve.context import Server
    from fireside.voices import VoiceCard


class Voices(fireside_pb2_grpc.VoicesServicer):
    """See fireside.proto."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def ListVoices(
        self, request: fireside_pb2.ListVoicesRequest, context: Context
    ) -> fireside_pb2.ListVoicesResponse:
        """Every voice by its own name."""
        async with answering(self._server, context):
            default = await asyncio.to_thread(self._default)
            cards = await asyncio.to_thread(lambda: self._server.tts.voices)
            named = [card for card in cards if card.name != DEFAULT or default == DEFAULT]
            return fireside_pb2.ListVoicesResponse(voices=[_shown(card, default) for card in named])

    async def GetVoice(self, request: fireside_pb2.GetVoiceRequest, context: Context) -> fireside_pb2.Voice:
        """One voice."""
        async with answering(self._server, context):
            voice = await asyncio.to_thread(self._server.tts.voice, request.name)
            return _shown(voice.card, await asyncio.to_thread(self._default))

    async def AddVoice(self, request: fireside_pb2.AddVoiceRequest, context: Context) -> fireside_pb2.AddVoiceResponse:
        """Keep the voice of a recording."""
        async with answering(self._server, context):
            if not request.consent.strip():
                raise UsageError("Say in `consent` who allowed the use of this voice.")
            server, prompt = self._server, request.prompt
            voice, notes = await server.voice_of(
                prompt.audio,
                prompt.text or None,
                name=check_name(request.name),
                consent=request.consent,
                language=request.language,
                description=request.description,
                licence=request.licence,
            )
            await server.service.run(server.tts.add_voice, voice)
            return fireside_pb2.AddVoiceResponse(voice=_shown(voice.card, self._default()), notes=notes)

    async def DeleteVoice(
        self, request: fireside_pb2.DeleteVoiceRequest, context: Context
    ) -> fireside_pb2.DeleteVoiceResponse:
        """Delete a voice that was added."""
        async with answering(self._server, context):
            await self._server.service.run(self._server.tts.remove_voice, request.name)
            return fireside_pb2.DeleteVoiceResponse()

    def _default(self) -> str:
        """The name of the voice that speaks when none is named."""
        return self._server.tts.voice().name if self._server.tts.voices else ""


def _shown(card: VoiceCard, default: str) -> fireside_pb2.Voice:
    return fireside_pb2.Voice(
        name=card.name,
        language=card.language,
        description=card.description,
        licence=card.licence,
        consent=card.consent,
        prompt_text=card.prompt_text,
        model=card.model,
        bundled=card.bundled,
        default=card.name == default,
    )
