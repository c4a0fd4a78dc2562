"""The dialects of the original's FastAPI server and of the fork: form fields in, int16 PCM out at the model's rate."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Response, UploadFile

from fireside.serve.context import Server
from fireside.serve.encode import Encoder
from fireside.serve.models import ForkErrorBody, Speakers, errors
from fireside.serve.routing import TheListener, TheServer
from fireside.serve.speaking import Listener
from fireside.serve.stream import AudioResponse
from fireside.voices import Voice

router = APIRouter(tags=["CosyVoice"])

_PCM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Little-endian int16 mono samples without a header, as they are made, X-Sample-Rate a second.",
        "content": {"audio/pcm": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_BOTH = ["GET", "POST"]
_FORK_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ForkErrorBody} for status in (400, 401, 413, 429, 500, 503)
}

Text = Annotated[str, Form(description="the text to say")]
Speaker = Annotated[str, Form(description="a voice by its name")]
FirstSpeaker = Annotated[str, Form(description="a voice by its name; the first one when empty")]
Instruction = Annotated[str, Form(description="how to say it")]
Recording = Annotated[UploadFile, File(description="a recording of the voice to copy")]
Speed = Annotated[float, Form(ge=0.25, le=4.0, description="1.2 is a fifth faster (not in the original)")]
Seed = Annotated[
    int | None, Form(ge=0, lt=2**31, description="the same seed gives the same audio (not in the original)")
]


def _route(path: str) -> Any:
    """GET and POST of a path, as the original has both. The form of a GET is in its body."""

    def add(function: Any) -> Any:
        for method in _BOTH:
            router.add_api_route(
                path,
                function,
                methods=[method],
                response_class=Response,
                responses={**_PCM, **errors(404, 408, 504)},
                operation_id=f"{function.__name__}_{method.lower()}",
            )
        return function

    return add


@_route("/inference_sft")
async def inference_sft(
    server: TheServer, listener: TheListener, tts_text: Text, spk_id: Speaker, speed: Speed = 1.0, seed: Seed = None
) -> Response:
    """Say a text in a named voice."""
    return await _say(server, listener, tts_text, spk_id, speed=speed, seed=seed)


@_route("/inference_zero_shot")
async def inference_zero_shot(
    server: TheServer,
    listener: TheListener,
    tts_text: Text,
    prompt_text: Annotated[str, Form(description="the words spoken in the recording")],
    prompt_wav: Recording,
    speed: Speed = 1.0,
    seed: Seed = None,
) -> Response:
    """Say a text in the voice of a recording whose words are known."""
    voice, notes = await server.voice_of(await prompt_wav.read(), prompt_text)
    return await _say(server, listener, tts_text, voice, notes, speed=speed, seed=seed)


@_route("/inference_cross_lingual")
async def inference_cross_lingual(
    server: TheServer,
    listener: TheListener,
    tts_text: Text,
    prompt_wav: Recording,
    speed: Speed = 1.0,
    seed: Seed = None,
) -> Response:
    """Say a text in the voice of a recording in any language."""
    voice, notes = await server.voice_of(await prompt_wav.read())
    return await _say(server, listener, tts_text, voice, notes, speed=speed, seed=seed, use_transcript=False)


@_route("/inference_instruct")
async def inference_instruct(
    server: TheServer,
    listener: TheListener,
    tts_text: Text,
    spk_id: Speaker,
    instruct_text: Instruction,
    speed: Speed = 1.0,
    seed: Seed = None,
) -> Response:
    """Say a text in a named voice as told."""
    return await _say(server, listener, tts_text, spk_id, speed=speed, seed=seed, instruction=instruct_text)


@_route("/inference_instruct2")
async def inference_instruct2(
    server: TheServer,
    listener: TheListener,
    tts_text: Text,
    instruct_text: Instruction,
    prompt_wav: Recording,
    speed: Speed = 1.0,
    seed: Seed = None,
) -> Response:
    """Say a text in the voice of a recording as told."""
    voice, notes = await server.voice_of(await prompt_wav.read())
    return await _say(server, listener, tts_text, voice, notes, speed=speed, seed=seed, instruction=instruct_text)


@router.post("/tts", response_class=Response, responses={**_PCM, **_FORK_ERRORS})
async def tts(
    server: TheServer,
    listener: TheListener,
    text: Text,
    speaker: FirstSpeaker = "",
) -> Response:
    """The fork's: say a text in a voice, the first one when none is named."""
    return await _say(server, listener, text, speaker or None)


@router.get("/api/speakers", responses=_FORK_ERRORS)
def list_speakers(server: TheServer) -> Speakers:
    """The fork's: the names of all voices."""
    return Speakers(speakers=speakers_of(server))


def speakers_of(server: Server) -> list[str]:
    """Every voice by its own name, the default one first."""
    default = server.default_voice
    names = [card.name for card in server.voices]
    return sorted(names, key=lambda name: name != default)


async def _say(
    server: Server,
    listener: Listener,
    text: str,
    voice: str | Voice | None,
    notes: tuple[str, ...] = (),
    **settings: Any,
) -> Response:
    request = await server.request(text, voice, streaming=True, **settings)
    encoder = Encoder("pcm", server.tts.sample_rate)
    return AudioResponse(server, server.speak(request, listener, notes), encoder)
