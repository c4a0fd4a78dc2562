"""What is said and answered in JSON: the models of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fireside.voices import Voice, VoiceCard

Seed = Annotated[int, Field(ge=0, lt=2**31, description="the same seed gives the same audio")]
Speed = Annotated[float, Field(ge=0.25, le=4.0, description="1.2 is a fifth faster; models take 0.5 to 2")]
FormatName = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class VoiceId(_Request):
    """A voice by its id, as OpenAI has it for voices of one's own."""

    id: str


VoiceName = Annotated[str, Field(min_length=1)]


class SpeechBody(_Request):
    """`POST /v1/audio/speech`: OpenAI's fields, then ours."""

    model: str = Field(description="the model's name, as /v1/models lists it")
    input: str = Field(description="the text to say")
    voice: VoiceName | VoiceId | None = Field(default=None, description="who speaks, as /v1/audio/voices lists them")
    instructions: str | None = Field(default=None, description="how to say it, as 'speak slowly'")
    response_format: FormatName = Field(default="mp3", description="aac is refused: no encoder for it may be shipped")
    speed: Speed = 1.0
    stream_format: Literal["audio", "sse"] = Field(default="audio", description="plain audio, or server-sent events")

    seed: Seed | None = None
    stream: bool = Field(default=True, description="false: the answer comes whole, with its length")
    prompt_audio: str | None = Field(
        default=None, description="a recording in base64 whose voice is copied, in place of `voice`; it is not kept"
    )
    prompt_text: str | None = Field(default=None, description="the words spoken in the recording: a closer copy")
    consent: str | None = Field(default=None, description="who allowed the use of that voice; written to the log")


class ErrorDetail(BaseModel):
    """What went wrong, in a sentence, and in words for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """OpenAI's JSON of an error."""

    error: ErrorDetail


class ForkErrorBody(BaseModel):
    """The fork's JSON of an error."""

    error: str


class ModelInfo(BaseModel):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "fireside"


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class VoiceInfo(BaseModel):
    """What is known of a voice."""

    id: str
    object: Literal["voice"] = "voice"
    name: str
    language: str
    description: str
    licence: str
    consent: str
    prompt_text: str
    model: str
    bundled: bool = Field(description="the model's own, which cannot be deleted")
    default: bool = Field(description="who speaks when no voice is named")
    prompt_seconds: float | None = Field(default=None, description="length of its prompt, where one voice is shown")
    notes: list[str] = Field(default=[], description="what whoever added it should know")

    @classmethod
    def of_card(cls, card: VoiceCard, default: str, **more: Any) -> VoiceInfo:
        """From a voice's card; default: the name of the voice that speaks when none is named."""
        shown = ("name", "language", "description", "licence", "consent", "prompt_text", "model", "bundled")
        facts = {name: getattr(card, name) for name in shown}
        return cls(id=card.name, default=card.name == default, **facts, **more)

    @classmethod
    def of_voice(cls, voice: Voice, default: str, token_rate: float, notes: tuple[str, ...] = ()) -> VoiceInfo:
        """From a voice that was read."""
        seconds = round(len(voice.prompt_tokens) / token_rate, 2)
        return cls.of_card(voice.card, default, prompt_seconds=seconds, notes=list(notes))


class VoiceList(BaseModel):
    """Every voice."""

    object: Literal["list"] = "list"
    data: list[VoiceInfo]


class VoiceDeleted(BaseModel):
    """A voice is no more."""

    id: str
    object: Literal["voice"] = "voice"
    deleted: Literal[True] = True


class Speakers(BaseModel):
    """The fork's list of voices."""

    speakers: list[str]


class Health(BaseModel):
    """Whether the server lives, or is ready."""

    status: Literal["ok", "ready", "starting", "draining"]


class Bounds(BaseModel):
    """What a client may ask for."""

    max_text: int
    max_upload_bytes: int
    max_upload_seconds: float
    streams_per_key: int | None
    max_streams: int


class Info(BaseModel):
    """What runs here, for a page before it has a key."""

    name: Literal["fireside"] = "fireside"
    version: str
    model: str
    sample_rate: int
    needs_key: bool
    uploads: bool
    response_formats: list[str]
    limits: Bounds


class RequestReport(BaseModel):
    """What became of a request for speech. timings: seconds, but for `rtf` and the count `lm_tokens`."""

    request_id: str
    client: str
    protocol: str
    outcome: Literal["done", "cancelled", "failed", "refused"]
    error: str
    voice: str
    seed: int
    chunks: int
    underruns: int
    cached: bool
    timings: dict[str, float]
    notes: list[str]


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for its OpenAPI entry."""
    return {status: {"model": ErrorBody} for status in (*statuses, 400, 401, 413, 429, 500, 503)}
