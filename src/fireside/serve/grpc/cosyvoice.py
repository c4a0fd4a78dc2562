"""The original's service: one text in, int16 PCM out as it is made."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fireside.audio.io import wav_header
from fireside.errors import AudioError, UsageError
from fireside.serve.encode import Encoder
from fireside.serve.grpc import cosyvoice_pb2, cosyvoice_pb2_grpc
from fireside.serve.grpc.calls import Context, answering
from fireside.serve.pieces import pieces

if TYPE_CHECKING:
    from fireside.request import SpeechRequest
    from fireside.serve.context import Server
    from fireside.voices import Voice

PROMPT_RATE = 16000
"""Of `prompt_audio`, in Hz."""


class CosyVoice(cosyvoice_pb2_grpc.CosyVoiceServicer):
    """See cosyvoice.proto."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def Inference(self, request: cosyvoice_pb2.Request, context: Context) -> None:
        """Speak a text in one of the original's four ways."""
        server = self._server
        async with answering(server, context) as call:
            asked, notes = await self._asked(request)
            async with server.speak(asked, call.listener, notes) as speaking:
                async for piece in pieces(speaking, Encoder("pcm", server.tts.sample_rate)):
                    began = time.perf_counter()
                    await call.send(cosyvoice_pb2.Response(tts_audio=piece.data))
                    speaking.written(time.perf_counter() - began)

    async def _asked(self, request: cosyvoice_pb2.Request) -> tuple[SpeechRequest, tuple[str, ...]]:
        """The request for the engine, and what to know about its prompt."""
        server, kind = self._server, request.WhichOneof("RequestPayload")
        if kind == "sft_request":
            sft = request.sft_request
            return await server.request(sft.tts_text, sft.spk_id, streaming=True), ()
        if kind == "zero_shot_request":
            zero = request.zero_shot_request
            voice, notes = await self._voice(zero.prompt_audio, zero.prompt_text)
            return await server.request(zero.tts_text, voice, streaming=True), notes
        if kind == "cross_lingual_request":
            cross = request.cross_lingual_request
            voice, notes = await self._voice(cross.prompt_audio, "")
            return await server.request(cross.tts_text, voice, streaming=True, use_transcript=False), notes
        if kind == "instruct_request":
            told = request.instruct_request
            return await server.request(told.tts_text, told.spk_id, streaming=True, instruction=told.instruct_text), ()
        raise UsageError(
            "The request is empty: set sft_request, zero_shot_request, cross_lingual_request or instruct_request."
        )

    async def _voice(self, prompt_audio: bytes, prompt_text: str) -> tuple[Voice, tuple[str, ...]]:
        if not prompt_audio or len(prompt_audio) % 2:
            raise AudioError("prompt_audio must be int16 samples at 16 kHz, without a header: it is empty or cut.")
        recording = wav_header(PROMPT_RATE, len(prompt_audio) // 2) + prompt_audio
        return await self._server.voice_of(recording, prompt_text or None)
