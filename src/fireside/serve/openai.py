"""OpenAI's dialect: speech and models."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from typing import Any

from fastapi import APIRouter, Response

from fireside.errors import AudioError, UsageError
from fireside.serve.context import Server
from fireside.serve.encode import Encoder, format_of
from fireside.serve.models import ModelInfo, ModelList, SpeechBody, errors
from fireside.serve.routing import TheListener, TheServer
from fireside.serve.stream import AudioResponse
from fireside.voices import Voice

PCM_RATE = 24_000
"""Of OpenAI's `pcm`, whatever the model's rate is."""

_log = logging.getLogger("fireside.serve")

router = APIRouter(tags=["OpenAI"])

_AUDIO: dict[str, Any] = {
    kind: {"schema": {"type": "string", "format": "binary"}}
    for kind in ("audio/mpeg", "audio/ogg", "audio/flac", "audio/wav", "audio/pcm")
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The audio as it is made. Server-Timing holds where the time to its beginning went.",
        "content": {**_AUDIO, "text/event-stream": {"schema": {"type": "string"}}},
    },
    **errors(404, 408, 504),
}


@router.post("/v1/audio/speech", response_class=Response, responses=_ANSWERS)
async def create_speech(body: SpeechBody, server: TheServer, listener: TheListener) -> Response:
    """Say a text.

    Streams from the first sound on. The openai client's `extra_body` takes the fields that are ours.
    """
    server.check_model(body.model)
    format_of(body.response_format)
    server.limits.text(body.input)
    voice, notes = await _voice(server, body)
    if body.prompt_audio is not None:
        _log.info("prompt", extra={"request_id": listener.request_id, "consent": body.consent or ""})
    request = await server.request(
        body.input,
        voice,
        instruction=body.instructions or None,
        speed=body.speed,
        seed=body.seed,
        streaming=body.stream,
    )
    rate = PCM_RATE if body.response_format == "pcm" else None
    encoder = Encoder(body.response_format, server.tts.sample_rate, out_rate=rate, whole=not body.stream)
    speaking = server.speak(request, listener, notes)
    return AudioResponse(server, speaking, encoder, events=body.stream_format == "sse")


async def _voice(server: Server, body: SpeechBody) -> tuple[str | Voice, tuple[str, ...]]:
    """Who is to speak: a voice by its name, or that of the recording in the request."""
    if body.prompt_audio is None:
        if body.voice is None:
            raise UsageError("There is no voice: name one in `voice`, or send a recording in `prompt_audio`.")
        if body.prompt_text is not None:
            raise UsageError("`prompt_text` is what is said in `prompt_audio`: send both, or neither.")
        return body.voice if isinstance(body.voice, str) else body.voice.id, ()
    if body.voice is not None:
        raise UsageError("Give either `voice` or `prompt_audio`, not both.")
    try:
        recording = await asyncio.to_thread(base64.b64decode, body.prompt_audio, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AudioError("`prompt_audio` is not base64: send the bytes of an audio file in base64.") from error
    return await server.voice_of(recording, body.prompt_text)


@router.get("/v1/models", responses=errors())
async def list_models(server: TheServer) -> ModelList:
    """The model, under each name that it answers to."""
    return ModelList(data=[_model(server, name) for name in (server.tts.name, *server.config.aliases)])


@router.get("/v1/models/{model}", responses=errors(404))
async def show_model(model: str, server: TheServer) -> ModelInfo:
    """One model."""
    server.check_model(model)
    return _model(server, model)


def _model(server: Server, name: str) -> ModelInfo:
    return ModelInfo(id=name, created=server.started)
