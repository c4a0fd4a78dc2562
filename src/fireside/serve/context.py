"""What every route of a server shares."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fireside.audio.io import read_audio
from fireside.errors import FiresideError, TooLargeError, UnknownModelError, UsageError, VoiceError
from fireside.request import SpeechRequest
from fireside.serve.auth import Client, Keys
from fireside.serve.config import ServeConfig
from fireside.serve.limits import Limits
from fireside.serve.metrics import Metrics
from fireside.serve.problems import Problem, problem_of
from fireside.serve.speaking import Dialect, Listener, Reports, Speaking
from fireside.serve.traces import NoTracer, Tracer
from fireside.voices import DEFAULT, Voice, VoiceCard

if TYPE_CHECKING:
    from fireside.engine.service import Service
    from fireside.engine.stream import Flush
    from fireside.tts import Fireside

_log = logging.getLogger("fireside.serve")

CACHED_SEED = 0
"""The seed of requests that name none where whole results are kept, so that the same words are found again."""


@dataclass(frozen=True)
class Server:
    """A model, the service that computes for many, and what is known of its clients."""

    config: ServeConfig
    tts: Fireside
    service: Service
    keys: Keys
    limits: Limits
    metrics: Metrics
    reports: Reports = field(default_factory=Reports)
    tracer: Tracer = field(default_factory=NoTracer)
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def draining(self) -> bool:
        """Whether it finishes its last streams and takes no new ones."""
        return self.service.statistics().draining

    @property
    def voices(self) -> list[VoiceCard]:
        """Every voice under its own name."""
        cards = self.tts.voices
        default = next((card for card in cards if card.name == DEFAULT), None)
        others = [card for card in cards if card.name != DEFAULT]
        # `default` stands for one of the others, but in models whose voice is called so.
        return others if default is None or others else [default]

    @property
    def default_voice(self) -> str:
        """The name of the voice that speaks when none is named; '' when a recording must be sent in."""
        try:
            return self.tts.voice().name
        except VoiceError:
            return ""

    def check_model(self, name: str) -> None:
        """Raises UnknownModelError unless `name` is the model's or one of its aliases."""
        known = (self.tts.name, *self.config.aliases)
        if name not in known:
            raise UnknownModelError(f"There is no model '{name}' here: use {' or '.join(known)}.")

    async def request(
        self, text: str | None, voice: str | Voice | None, *, seed: int | None = None, **settings: Any
    ) -> SpeechRequest:
        """As Fireside.request, its text checked, its disk reads out of the event loop.

        text: None where it comes in parts.
        """
        if text is not None:
            self.limits.text(text)
        if seed is None and self.config.result_cache is not None:
            seed = CACHED_SEED
        return await asyncio.to_thread(self.tts.request, text, voice, seed=seed, **settings)

    def speak(
        self,
        request: SpeechRequest,
        listener: Listener,
        notes: tuple[str, ...] = (),
        text: AsyncIterable[str | Flush] | None = None,
    ) -> Speaking:
        """The audio of a request, for one listener. Nothing happens before it is entered.

        text: its parts as they come, for a request without a text of its own.
        """
        return Speaking(self, request, listener, notes, text)

    async def voice_of(
        self,
        recording: bytes,
        prompt_text: str | None = None,
        *,
        name: str = "prompt",
        language: str = "",
        description: str = "",
        licence: str = "",
        consent: str = "",
    ) -> tuple[Voice, tuple[str, ...]]:
        """The voice of a recording that was sent in, and what its sender should know about it.

        Raises UsageError where recordings are not taken, TooLargeError, AudioError or TextError for one that cannot
        be used.
        """
        if not self.config.uploads:
            raise UsageError("This server takes no recordings: use one of its voices.")
        if len(recording) > self.config.max_upload_bytes:
            raise TooLargeError(
                f"The recording has {len(recording)} bytes, more than the {self.config.max_upload_bytes} that this "
                "server takes: send a shorter one, or a compressed one."
            )
        if prompt_text:
            self.limits.text(prompt_text)
        notes: list[str] = []

        def analyse() -> Voice:
            sound = read_audio(recording, self.config.max_upload_seconds)
            return self.tts.make_voice(
                (sound.samples, sound.sample_rate),
                prompt_text or None,
                name=name,
                language=language,
                description=description,
                licence=licence,
                consent=consent,
                on_note=notes.append,
            )

        voice = await self.service.run(analyse)
        return voice, tuple(notes)

    def listener(
        self, client: Client, protocol: Dialect, request_id: str | None = None, traceparent: str | None = None
    ) -> Listener:
        """Who asks now."""
        return Listener(client, protocol, request_id or uuid.uuid4().hex, time.perf_counter(), traceparent)

    def explain(self, error: BaseException, protocol: Dialect, request_id: str) -> Problem:
        """What to tell a client of an error, counted and logged. Call it once, where the client is told."""
        problem = problem_of(error, request_id)
        self.metrics.told(protocol, problem.code)
        facts = {"request_id": request_id, "protocol": protocol, "code": problem.code, "status": problem.status}
        if problem.status >= 500:
            # A FiresideError's own sentence says enough, unless it wraps what really happened.
            told = isinstance(error, FiresideError) and error.__cause__ is None
            _log.error(str(error), extra=facts, exc_info=None if told else error)
        else:
            _log.info(problem.message, extra=facts)
        return problem
