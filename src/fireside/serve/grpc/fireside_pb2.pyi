from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SpeakRequest(_message.Message):
    __slots__ = ("start", "text", "flush")
    START_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FLUSH_FIELD_NUMBER: _ClassVar[int]
    start: Start
    text: str
    flush: Flush
    def __init__(self, start: _Optional[_Union[Start, _Mapping]] = ..., text: _Optional[str] = ..., flush: _Optional[_Union[Flush, _Mapping]] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("voice", "instruction", "speed", "seed", "format", "prompt", "model")
    VOICE_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    voice: str
    instruction: str
    speed: float
    seed: int
    format: str
    prompt: Prompt
    model: str
    def __init__(self, voice: _Optional[str] = ..., instruction: _Optional[str] = ..., speed: _Optional[float] = ..., seed: _Optional[int] = ..., format: _Optional[str] = ..., prompt: _Optional[_Union[Prompt, _Mapping]] = ..., model: _Optional[str] = ...) -> None: ...

class Prompt(_message.Message):
    __slots__ = ("audio", "text")
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    audio: bytes
    text: str
    def __init__(self, audio: _Optional[bytes] = ..., text: _Optional[str] = ...) -> None: ...

class Flush(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SpeakResponse(_message.Message):
    __slots__ = ("started", "audio", "done")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    started: Started
    audio: Audio
    done: Done
    def __init__(self, started: _Optional[_Union[Started, _Mapping]] = ..., audio: _Optional[_Union[Audio, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("request_id", "voice", "seed", "sample_rate", "format", "notes")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VOICE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    voice: str
    seed: int
    sample_rate: int
    format: str
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., voice: _Optional[str] = ..., seed: _Optional[int] = ..., sample_rate: _Optional[int] = ..., format: _Optional[str] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class Audio(_message.Message):
    __slots__ = ("data", "index", "start", "seconds", "progress")
    DATA_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    index: int
    start: float
    seconds: float
    progress: float
    def __init__(self, data: _Optional[bytes] = ..., index: _Optional[int] = ..., start: _Optional[float] = ..., seconds: _Optional[float] = ..., progress: _Optional[float] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("audio_seconds", "timings")
    AUDIO_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    audio_seconds: float
    timings: Timings
    def __init__(self, audio_seconds: _Optional[float] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue", "front_end", "lm_prefill", "lm_decode", "flow", "vocoder", "encode", "write", "ttfa", "audible_ttfa", "total", "rtf", "waiting", "lm_tokens")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    FRONT_END_FIELD_NUMBER: _ClassVar[int]
    LM_PREFILL_FIELD_NUMBER: _ClassVar[int]
    LM_DECODE_FIELD_NUMBER: _ClassVar[int]
    FLOW_FIELD_NUMBER: _ClassVar[int]
    VOCODER_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    TTFA_FIELD_NUMBER: _ClassVar[int]
    AUDIBLE_TTFA_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    RTF_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    LM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    queue: float
    front_end: float
    lm_prefill: float
    lm_decode: float
    flow: float
    vocoder: float
    encode: float
    write: float
    ttfa: float
    audible_ttfa: float
    total: float
    rtf: float
    waiting: float
    lm_tokens: int
    def __init__(self, queue: _Optional[float] = ..., front_end: _Optional[float] = ..., lm_prefill: _Optional[float] = ..., lm_decode: _Optional[float] = ..., flow: _Optional[float] = ..., vocoder: _Optional[float] = ..., encode: _Optional[float] = ..., write: _Optional[float] = ..., ttfa: _Optional[float] = ..., audible_ttfa: _Optional[float] = ..., total: _Optional[float] = ..., rtf: _Optional[float] = ..., waiting: _Optional[float] = ..., lm_tokens: _Optional[int] = ...) -> None: ...

class Voice(_message.Message):
    __slots__ = ("name", "language", "description", "licence", "consent", "prompt_text", "model", "bundled", "default")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TEXT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BUNDLED_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    name: str
    language: str
    description: str
    licence: str
    consent: str
    prompt_text: str
    model: str
    bundled: bool
    default: bool
    def __init__(self, name: _Optional[str] = ..., language: _Optional[str] = ..., description: _Optional[str] = ..., licence: _Optional[str] = ..., consent: _Optional[str] = ..., prompt_text: _Optional[str] = ..., model: _Optional[str] = ..., bundled: bool = ..., default: bool = ...) -> None: ...

class ListVoicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListVoicesResponse(_message.Message):
    __slots__ = ("voices",)
    VOICES_FIELD_NUMBER: _ClassVar[int]
    voices: _containers.RepeatedCompositeFieldContainer[Voice]
    def __init__(self, voices: _Optional[_Iterable[_Union[Voice, _Mapping]]] = ...) -> None: ...

class GetVoiceRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class AddVoiceRequest(_message.Message):
    __slots__ = ("name", "prompt", "consent", "language", "description", "licence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    prompt: Prompt
    consent: str
    language: str
    description: str
    licence: str
    def __init__(self, name: _Optional[str] = ..., prompt: _Optional[_Union[Prompt, _Mapping]] = ..., consent: _Optional[str] = ..., language: _Optional[str] = ..., description: _Optional[str] = ..., licence: _Optional[str] = ...) -> None: ...

class AddVoiceResponse(_message.Message):
    __slots__ = ("voice", "notes")
    VOICE_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    voice: Voice
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, voice: _Optional[_Union[Voice, _Mapping]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteVoiceRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteVoiceResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
