"""Voices over HTTP: list, add with consent, show, hear, delete."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, File, Form, Response, UploadFile

from fireside.errors import UsageError
from fireside.serve.context import Server
from fireside.serve.encode import Encoder, format_of
from fireside.serve.models import FormatName, VoiceDeleted, VoiceInfo, VoiceList, errors
from fireside.serve.routing import TheListener, TheServer
from fireside.serve.stream import AudioResponse
from fireside.voices import Voice, check_name

PREVIEWS = {
    "en": "Hello. This is how I sound when I read to you by the fire.",
    "zh": "你好，这就是我的声音，我们坐在火炉边慢慢说。",
}

router = APIRouter(tags=["Voices"])

Field = Annotated[str, Form()]


@router.get("/v1/audio/voices", responses=errors())
def list_voices(server: TheServer) -> VoiceList:
    """Every voice by its own name; `default` marks the one that speaks when none is named."""
    return VoiceList(data=[VoiceInfo.of_card(card, server.default_voice) for card in server.voices])


@router.post("/v1/audio/voices", status_code=201, responses=errors(409, 507))
async def add_voice(
    server: TheServer,
    name: Annotated[str, Form(description="what to call it: letters, digits, '-', '_' and '.'")],
    audio_sample: Annotated[UploadFile, File(description="3 to 30 s of one person speaking without music")],
    consent: Annotated[str, Form(description="who allowed the use of this voice; kept with it")],
    prompt_text: Annotated[str, Form(description="the words spoken in the recording: a closer copy")] = "",
    language: Annotated[str, Form(description="the language it speaks, as en or zh")] = "",
    description: Field = "",
    licence: Field = "",
) -> VoiceInfo:
    """Keep the voice of a recording under a name."""
    if not consent.strip():
        raise UsageError("Say in `consent` who allowed the use of this voice.")
    check_name(name)
    voice, notes = await server.voice_of(
        await audio_sample.read(),
        prompt_text,
        name=name,
        consent=consent,
        language=language,
        description=description,
        licence=licence,
    )
    await server.service.run(server.tts.add_voice, voice)
    return _shown(server, voice, notes)


@router.get("/v1/audio/voices/{name}", responses=errors(404))
def show_voice(name: str, server: TheServer) -> VoiceInfo:
    """What is known of a voice."""
    return _shown(server, server.tts.voice(name))


@router.get("/v1/audio/voices/{name}/preview", response_class=Response, responses=errors(404, 408, 504))
async def preview_voice(
    name: str, server: TheServer, listener: TheListener, response_format: FormatName = "mp3"
) -> Response:
    """A sentence in a voice, always the same."""
    format_of(response_format)
    voice = await asyncio.to_thread(server.tts.voice, name)
    request = await server.request(PREVIEWS.get(voice.language, PREVIEWS["en"]), voice, seed=0, streaming=True)
    encoder = Encoder(response_format, server.tts.sample_rate)
    return AudioResponse(server, server.speak(request, listener), encoder)


@router.delete("/v1/audio/voices/{name}", responses=errors(404, 409))
async def delete_voice(name: str, server: TheServer) -> VoiceDeleted:
    """Delete a voice that was added; the model's own stay."""
    await server.service.run(server.tts.remove_voice, name)
    return VoiceDeleted(id=name)


def _shown(server: Server, voice: Voice, notes: tuple[str, ...] = ()) -> VoiceInfo:
    return VoiceInfo.of_voice(voice, server.default_voice, server.tts.token_rate, notes)
