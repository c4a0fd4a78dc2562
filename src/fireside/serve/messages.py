"""What goes over the WebSocket: every message of the protocol `fireside.v1`, in both directions.

A message is a JSON object in a text frame. Audio follows its `audio` message as one binary frame."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fireside.errors import FiresideError
from fireside.models.config import Config, first_problem

PROTOCOL = "fireside.v1"
"""Its name, as the subprotocol of the WebSocket and in `ready`."""

MAX_MESSAGE = 2**16
"""Most bytes of a client's message."""

MAX_SEED = 2**31 - 1


class Start(Config):
    """Begins an utterance. Its text follows."""

    type: Literal["start"]
    id: str = Field(default="", max_length=64, description="the client's name for it, repeated in every answer")
    model: str | None = None
    voice: str | None = Field(default=None, description="a voice's name; the default one when not given")
    instruction: str | None = Field(default=None, description="how to speak: 'speak slowly'")
    speed: float = Field(default=1.0, description="0.5 to 2; above 1 is faster")
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="the same one gives the same audio")
    format: str = Field(default="pcm", description="as response_format of POST /v1/audio/speech")


class Text(Config):
    """The next part of the text, cut anywhere; parts are joined as they are."""

    type: Literal["text"]
    text: str


class Flush(Config):
    """What has come so far is spoken now, without waiting for the end of its sentence."""

    type: Literal["flush"]


class End(Config):
    """The text has ended."""

    type: Literal["end"]


class Cancel(Config):
    """No more of this utterance."""

    type: Literal["cancel"]


class Close(Config):
    """As `end`; the server closes the connection when all is spoken."""

    type: Literal["close"]


ClientMessage = Start | Text | Flush | End | Cancel | Close

_CLIENT: TypeAdapter[ClientMessage] = TypeAdapter(Annotated[ClientMessage, Field(discriminator="type")])


class MessageError(FiresideError):
    """A frame that is not a message of the protocol; `close_code` is what the connection is then closed with."""

    status = 400

    def __init__(self, message: str, close_code: int) -> None:
        super().__init__(message)
        self.close_code = close_code


def read_message(text: str) -> ClientMessage:
    """A client's message. Raises MessageError: 1007 when it is not JSON, 1008 when it is not one of the protocol's."""
    try:
        return _CLIENT.validate_json(text, strict=True)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise MessageError("The message is not JSON: send one JSON object in each text frame.", 1007) from error
        raise MessageError(f"The message is not one of the protocol {PROTOCOL}: {_problem(error)}.", 1008) from error


def _problem(error: ValidationError) -> str:
    if error.errors()[0]["type"] == "union_tag_not_found":
        return "type: start, text, flush, end, cancel or close is needed"
    return first_problem(error)


class Ready(Config):
    """The first message of the server."""

    type: Literal["ready"] = "ready"
    protocol: str = PROTOCOL
    model: str
    sample_rate: int


class Started(Config):
    """The utterance was admitted; sample_rate in Hz is that of its audio."""

    type: Literal["started"] = "started"
    id: str
    request_id: str
    voice: str
    format: str
    sample_rate: int
    seed: int


class Audio(Config):
    """Announces the binary frame that follows: where in the utterance it begins and how long it is, in seconds.

    progress: the share of the utterance that is done, 0 to 1, an estimate until the end."""

    type: Literal["audio"] = "audio"
    id: str
    index: int
    start: float
    seconds: float
    progress: float


class Done(Config):
    """All of the utterance was sent; timings in seconds."""

    type: Literal["done"] = "done"
    id: str
    audio_seconds: float
    timings: dict[str, float]


class Cancelled(Config):
    """The answer to `cancel`: no more audio comes, nothing is kept."""

    type: Literal["cancelled"] = "cancelled"
    id: str
    audio_seconds: float


class Problem(Config):
    """What went wrong, as in the HTTP answers; retry_after in seconds where waiting helps."""

    message: str
    type: str
    code: str | None
    param: str | None = None
    retry_after: float | None = None


class Failed(Config):
    """With an id: that utterance is over. Without: a message that was not taken; nothing else changes."""

    type: Literal["error"] = "error"
    id: str | None = None
    error: Problem


ServerMessage = Ready | Started | Audio | Done | Cancelled | Failed
