"""The public face: load a model, say, stream, clone, convert, instruct."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fireside.errors import UsageError
from fireside.hub import data_dir, resolve
from fireside.request import MAX_SPEED, MIN_SPEED, AudioChunk, SpeechRequest, Timings
from fireside.voices import Voice, VoiceCard, VoiceRegistry, check_name

if TYPE_CHECKING:
    from fireside.engine.engine import Engine
    from fireside.enrol import Note, Source
    from fireside.models.checkpoint import ModelFolder


@dataclass(frozen=True)
class Speech:
    """Audio that was made: samples [n] float32 mono in -1..1, where the time went, and what to know about it.

    tokens are the speech tokens, `seed` the one that gives this audio again.
    """

    samples: np.ndarray = field(repr=False)
    sample_rate: int
    timings: Timings
    seed: int = 0
    tokens: tuple[int, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return len(self.samples) / self.sample_rate

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write .wav, .flac, .mp3, .ogg or .opus.

        Raises UsageError or OutputError when that cannot be done.
        """
        from fireside.audio.io import write_audio

        file = Path(path)
        write_audio(file, self.samples, self.sample_rate)
        return file


class Fireside:
    """A model that speaks. Safe to use from several threads: their requests are computed together."""

    def __init__(self, model: ModelFolder, registry: VoiceRegistry) -> None:
        self.model = model
        self._registry = registry

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.config.name

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        return self.model.config.vocoder.sample_rate

    @property
    def token_rate(self) -> float:
        """Speech tokens per second of audio."""
        config = self.model.config
        return config.mel.sample_rate / config.mel.hop_length / config.flow.token_mel_ratio

    @cached_property
    def engine(self) -> Engine:
        """What computes requests; for several at once, see Engine.submit and Engine.step."""
        from fireside.engine.engine import Engine

        return Engine(self.model)

    @property
    def voices(self) -> list[VoiceCard]:
        """Every voice, `default` first."""
        return self._registry.cards()

    def voice(self, name: str | None = None) -> Voice:
        """A voice by its name; None is the default. Raises VoiceError listing near names."""
        return self._registry.get(name)

    def add_voice(self, voice: Voice) -> None:
        """Keep a voice made by `make_voice` under its name. Raises VoiceError when the name is taken."""
        self._registry.add(voice)

    def remove_voice(self, name: str) -> None:
        """Delete a voice that was added. Raises VoiceError for unknown names and the model's own voices."""
        self._registry.remove(name)

    def make_voice(
        self,
        prompt: Source,
        prompt_text: str | None = None,
        *,
        name: str = "prompt",
        language: str = "",
        description: str = "",
        licence: str = "",
        consent: str = "",
        on_note: Note | None = None,
    ) -> Voice:
        """The voice of a recording, to speak with or to keep.

        prompt: a file, the bytes of one, or (samples, rate). prompt_text: what is said in it, for a closer
        copy. Raises AudioError when the recording cannot be used, TextError for a text that cannot be read.
        """
        from fireside.enrol import make_voice

        if name != "prompt":
            check_name(name)
        words = [word.tokens for word in self.engine.frontend.words(prompt_text)] if prompt_text else []
        card = VoiceCard(name, language, description, licence, consent, prompt_text=prompt_text or "", model=self.name)
        return make_voice(self.model, prompt, words, card, on_note or (lambda note: None))

    def say(self, text: str, voice: str | Voice | None = None, speed: float = 1.0, seed: int | None = None) -> Speech:
        """Say a text.

        voice: a name, a Voice, or None for the default. speed: 0.5 to 2. seed: the same one gives the same
        audio. Raises TextError, VoiceError or UsageError for what cannot be spoken as asked."""
        return self._collect(self._request(text, voice, speed, seed))

    def stream(
        self,
        text: str,
        voice: str | Voice | None = None,
        speed: float = 1.0,
        seed: int | None = None,
        instruction: str | None = None,
    ) -> Iterator[AudioChunk]:
        """As `say` (or `instruct`), chunk by chunk; the joined chunks are what `say` returns."""
        return self.engine.generate(self._request(text, voice, speed, seed, instruction))

    def clone(
        self,
        text: str,
        prompt: Source | Voice,
        prompt_text: str | None = None,
        speed: float = 1.0,
        seed: int | None = None,
    ) -> Speech:
        """Say a text in the voice of a recording: zero-shot with its text, cross-lingual without."""
        notes: list[str] = []
        voice = prompt if isinstance(prompt, Voice) else self.make_voice(prompt, prompt_text, on_note=notes.append)
        return replace(self.say(text, voice, speed, seed), notes=tuple(notes))

    def instruct(
        self,
        text: str,
        instruction: str,
        voice: str | Voice | None = None,
        speed: float = 1.0,
        seed: int | None = None,
    ) -> Speech:
        """Say a text as told: 'speak slowly', '快一点'. Raises UsageError listing what can be told."""
        return self._collect(self._request(text, voice, speed, seed, instruction))

    def convert(self, source: Source, voice: str | Voice | None = None, prompt: Source | None = None) -> Speech:
        """The words and rhythm of a recording in another voice: a named one, or that of another recording."""
        if voice is not None and prompt is not None:
            raise UsageError("convert takes a voice or a prompt, not both.")
        notes: list[str] = []
        target = self.make_voice(prompt, on_note=notes.append) if prompt is not None else voice
        speech = self._collect(self._conversion(source, target))
        return replace(speech, notes=tuple(notes))

    def stream_convert(self, source: Source, voice: str | Voice | None = None) -> Iterator[AudioChunk]:
        """As `convert`, chunk by chunk."""
        return self.engine.generate(self._conversion(source, voice))

    def _request(
        self,
        text: str,
        voice: str | Voice | None,
        speed: float,
        seed: int | None,
        instruction: str | None = None,
    ) -> SpeechRequest:
        control: tuple[int, ...] = ()
        tempo = 1.0
        if instruction is not None:
            from fireside.instructions import TEMPO, rate_mark
            from fireside.text.phones import PHONE_ID

            mark = rate_mark(instruction)
            control, tempo = (PHONE_ID[mark],), TEMPO[mark]
        if not MIN_SPEED <= speed <= MAX_SPEED:
            raise UsageError(f"The speed {speed:g} is out of range: use {MIN_SPEED:g} to {MAX_SPEED:g}.")
        # An instruction changes how the words are spoken, so the LM must not copy how the prompt was.
        return SpeechRequest(
            self._resolve(voice),
            text=text,
            speed=min(max(speed * tempo, MIN_SPEED), MAX_SPEED),
            seed=random.randrange(2**31) if seed is None else seed,
            control=control,
            use_prompt_text=instruction is None,
        )

    def _conversion(self, source: Source, voice: str | Voice | None) -> SpeechRequest:
        from fireside.enrol import source_tokens

        target = self._resolve(voice)
        return SpeechRequest(target, tokens=tuple(source_tokens(self.model, source)))

    def _resolve(self, voice: str | Voice | None) -> Voice:
        return voice if isinstance(voice, Voice) else self._registry.get(voice)

    def _collect(self, request: SpeechRequest) -> Speech:
        chunks = list(self.engine.generate(request))
        return Speech(
            np.concatenate([chunk.samples for chunk in chunks]),
            self.sample_rate,
            chunks[-1].timings,
            request.seed or 0,
            tuple(token for chunk in chunks for token in chunk.tokens),
        )


def load(name: str | os.PathLike[str] | None = None, threads: int | None = None) -> Fireside:
    """Load a model: None or 'hearth' is the bundled one; else a folder, 'org/name' on Hugging Face or
    'modelscope:org/name'. Its parts are read when first needed.

    threads: CPU threads that torch uses in this process; None leaves its choice. Raises ModelError or
    ConfigError."""
    import torch

    from fireside.models.checkpoint import ModelFolder

    if threads is not None:
        torch.set_num_threads(threads)
    model = ModelFolder(resolve(name))
    config = model.config
    registry = VoiceRegistry(
        bundled=model.path / "voices",
        user=data_dir() / "voices",
        default=config.default_voice,
        model=config.name,
    )
    return Fireside(model, registry)
