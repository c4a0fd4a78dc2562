"""The public face: load a model, say, stream, clone, convert, instruct."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from fireside.errors import UsageError
from fireside.hub import data_dir, resolve
from fireside.request import MAX_SPEED, MIN_SPEED, AudioChunk, SpeechRequest, Timings
from fireside.voices import Voice, VoiceCard, VoiceRegistry, check_name

if TYPE_CHECKING:
    from fireside.engine.engine import Engine
    from fireside.engine.products import Weights
    from fireside.enrol import Note, Source
    from fireside.models.checkpoint import ModelFolder
    from fireside.models.config import Mode, SamplingConfig
    from fireside.text import Word
    from fireside.text.official import Choice


Text = str | Iterable[str]
"""What to say: a text, or the parts of one as they come."""

_OFFERS: dict[Mode, str] = {
    "sft": "speak with named voices",
    "zero_shot": "speak in the voice of a recording whose words are given",
    "cross_lingual": "speak in the voice of a recording whose words are unknown",
    "instruct": "follow instructions with a named voice",
    "instruct2": "follow instructions in the voice of a recording",
    "convert": "convert a recording to another voice",
    "bistream": "speak while its text is still coming in",
}


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

    def __init__(
        self,
        model: ModelFolder,
        registry: VoiceRegistry,
        lm_weights: Weights = "float",
        normaliser: Choice | None = None,
        compile: bool = False,
    ) -> None:
        self.model = model
        self._registry = registry
        self._lm_weights, self._normaliser, self._compile = lm_weights, normaliser, compile

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
        return self.model.config.token_rate

    @cached_property
    def engine(self) -> Engine:
        """What computes requests; for several at once, see Engine.submit and Engine.step."""
        from fireside.engine.engine import Engine

        return Engine(self.model, lm_weights=self._lm_weights, normaliser=self._normaliser, compile=self._compile)

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
        normalise: bool = True,
        on_note: Note | None = None,
    ) -> Voice:
        """The voice of a recording, to speak with or to keep.

        prompt: a file, the bytes of one, or (samples, rate). prompt_text: what is said in it, for a closer
        copy; normalise false reads it as it is written, where a model can. Raises AudioError when the recording
        cannot be used, TextError for a text that cannot be read.
        """
        from fireside.enrol import make_voice, recording_key

        if name != "prompt":
            check_name(name)
        words = [word.tokens for word in self._heard(prompt_text, normalise)] if prompt_text else []
        card = VoiceCard(name, language, description, licence, consent, prompt_text=prompt_text or "", model=self.name)
        key, known = recording_key(prompt, words), self.engine.analysed
        found = None if key is None else known.get(key)
        if found is None:
            told: list[str] = []
            voice = self.engine.fitted(make_voice(self.model, prompt, words, card, told.append))
            found = voice, tuple(told)
            if key is not None:
                known.put(key, found, voice.nbytes)
        voice, notes = found
        if on_note is not None:
            for note in notes:
                on_note(note)
        heard = voice.card
        said = card.prompt_text if heard.prompt_text else ""
        return replace(
            voice,
            card=replace(
                card, words=heard.words, word_ends=heard.word_ends, prompt_text=said, fitted_to=heard.fitted_to
            ),
        )

    def say(
        self,
        text: Text,
        voice: str | Voice | None = None,
        speed: float = 1.0,
        seed: int | None = None,
        sampling: SamplingConfig | None = None,
    ) -> Speech:
        """Say a text.

        voice: a name, a Voice, or None for the default. speed: 0.5 to 2. seed: the same one gives the same
        audio. sampling: in place of the model's own. Raises TextError, VoiceError or UsageError for what cannot
        be spoken as asked."""
        return self._collect(self.request(text, voice, speed=speed, seed=seed, sampling=sampling))

    def stream(
        self,
        text: Text,
        voice: str | Voice | None = None,
        speed: float = 1.0,
        seed: int | None = None,
        instruction: str | None = None,
        sampling: SamplingConfig | None = None,
    ) -> Iterator[AudioChunk]:
        """As `say` (or `instruct`), chunk by chunk, as early as can be.

        With hearth the joined chunks are what `say` returns. Released models were made for two ways of computing:
        streamed, their audio differs a little from `say`, which may look ahead."""
        return self.chunks(
            self.request(
                text, voice, instruction=instruction, speed=speed, seed=seed, streaming=True, sampling=sampling
            )
        )

    def clone(
        self,
        text: Text,
        prompt: Source | Voice,
        prompt_text: str | None = None,
        speed: float = 1.0,
        seed: int | None = None,
        sampling: SamplingConfig | None = None,
    ) -> Speech:
        """Say a text in the voice of a recording: zero-shot with its text, cross-lingual without."""
        notes: list[str] = []
        voice = prompt if isinstance(prompt, Voice) else self.make_voice(prompt, prompt_text, on_note=notes.append)
        return replace(self.say(text, voice, speed, seed, sampling), notes=tuple(notes))

    def instruct(
        self,
        text: Text,
        instruction: str,
        voice: str | Voice | None = None,
        speed: float = 1.0,
        seed: int | None = None,
        sampling: SamplingConfig | None = None,
    ) -> Speech:
        """Say a text as told: 'speak slowly', '快一点'.

        hearth follows instructions about its rate; released models that follow instructions follow their own. Raises
        UsageError for a model that follows none, and for what hearth cannot do.
        """
        return self._collect(
            self.request(text, voice, instruction=instruction, speed=speed, seed=seed, sampling=sampling)
        )

    def convert(
        self,
        source: Source,
        voice: str | Voice | None = None,
        prompt: Source | None = None,
        speed: float = 1.0,
    ) -> Speech:
        """The words and rhythm of a recording in another voice: a named one, or that of another recording."""
        if voice is not None and prompt is not None:
            raise UsageError("convert takes a voice or a prompt, not both.")
        notes: list[str] = []
        target = self.make_voice(prompt, on_note=notes.append) if prompt is not None else voice
        speech = self._collect(self.conversion(source, target, speed=speed))
        return replace(speech, notes=tuple(notes))

    def stream_convert(
        self, source: Source, voice: str | Voice | None = None, speed: float = 1.0
    ) -> Iterator[AudioChunk]:
        """As `convert`, chunk by chunk."""
        return self.chunks(self.conversion(source, voice, speed=speed, streaming=True))

    def chunks(self, request: SpeechRequest) -> Iterator[AudioChunk]:
        """The audio of a request as it is made: for the methods above, and for what they do not offer."""
        return self.engine.generate(request)

    def request(
        self,
        text: Text | None,
        voice: str | Voice | None = None,
        *,
        instruction: str | None = None,
        use_transcript: bool = True,
        speed: float = 1.0,
        seed: int | None = None,
        streaming: bool = False,
        sampling: SamplingConfig | None = None,
        normalise: bool = True,
        join_parts: bool = True,
    ) -> SpeechRequest:
        """The request that `say`, `stream`, `clone` and `instruct` make.

        text: None where its parts are still to come, by Engine.feed or a service. use_transcript false does not let
        the model hear what the voice's prompt says (cross-lingual), which instructions never do: they change how words
        are spoken, so the prompt's way must not be copied. normalise false speaks a CosyVoice model's text as it is
        written, in one piece; join_parts false takes the words at the edges of incoming parts apart, as the original
        does. Raises UsageError for a mode that the model lacks, VoiceError for a voice that is not there.
        """
        speaker, own_instruction = self._told_apart(self._resolve(voice))
        transcript = use_transcript and instruction is None
        self._check_mode(speaker, instruction is not None, transcript)
        self._check_speed(speed)
        control, tempo = self._told(text, instruction, own_instruction if transcript else ())
        return SpeechRequest(
            speaker,
            text=text if text is None or isinstance(text, str) else iter(text),
            speed=min(max(speed * tempo, MIN_SPEED), MAX_SPEED),
            seed=random.randrange(2**31) if seed is None else seed,
            control=control,
            use_prompt_text=transcript,
            use_speaker=instruction is None,
            streaming=streaming,
            sampling=sampling,
            normalise=normalise,
            join_parts=join_parts,
        )

    def conversion(
        self, source: Source, voice: str | Voice | None = None, *, speed: float = 1.0, streaming: bool = False
    ) -> SpeechRequest:
        """The request that `convert` and `stream_convert` make."""
        from fireside.enrol import source_tokens

        self._require("convert")
        self._check_speed(speed)
        target = self._resolve(voice)
        tokens = tuple(source_tokens(self.model, source, streaming))
        return SpeechRequest(target, tokens=tokens, speed=speed, streaming=streaming)

    def _heard(self, prompt_text: str, normalise: bool) -> tuple[Word, ...]:
        from fireside.text.official import OfficialFrontend

        frontend = self.engine.frontend
        if isinstance(frontend, OfficialFrontend):
            return frontend.words(prompt_text, normalise)
        return frontend.words(prompt_text)

    def _told_apart(self, voice: Voice) -> tuple[Voice, tuple[int, ...]]:
        """A voice without the instruction that its prompt's text begins with, as CosyVoice 3 wants it from its callers
        and keeps it in its files, and that instruction's text ids."""
        from fireside.text.official import OfficialFrontend

        frontend = self.engine.frontend
        if not isinstance(frontend, OfficialFrontend):
            return voice, ()
        card = voice.card
        instruction, words = frontend.split_prompt([token for word in card.words for token in word])
        if not instruction:
            return voice, ()
        ends = (len(voice.prompt_tokens),) if words else ()
        return replace(voice, card=replace(card, words=(words,) if words else (), word_ends=ends)), instruction

    def _told(
        self, text: Text | None, instruction: str | None, own: tuple[int, ...] = ()
    ) -> tuple[tuple[int, ...], float]:
        """Text ids that stand before the text to make an instruction heard, and what is left to the mel's rate.

        own: those of the instruction in the voice's prompt, which stand where there is no other."""
        from fireside.text.official import OfficialFrontend

        frontend = self.engine.frontend
        if isinstance(frontend, OfficialFrontend):
            if instruction is None and isinstance(text, str):
                instruction = frontend.written_instruction(text)
            return (own if own and instruction is None else frontend.instruction(instruction)), 1.0
        if instruction is None:
            return (), 1.0
        from fireside.instructions import TEMPO, rate_mark
        from fireside.text.phones import PHONE_ID

        mark = rate_mark(instruction)
        return (PHONE_ID[mark],), TEMPO[mark]

    def _check_mode(self, voice: Voice, instructed: bool, transcript: bool) -> None:
        if instructed:
            modes = self.model.config.modes
            self._require("instruct2" if "instruct2" in modes and "instruct" not in modes else "instruct")
        elif not len(voice.prompt_tokens):
            self._require("sft")
        else:
            self._require("zero_shot" if voice.card.words and transcript else "cross_lingual")

    def _require(self, mode: Mode) -> None:
        """Refuse what the model was not made for, in a sentence that says what it can do."""
        if mode not in self.model.config.modes:
            offers = [_OFFERS[each] for each in self.model.config.modes]
            raise UsageError(f"The model {self.name} cannot {_OFFERS[mode]}; it can {'; '.join(offers)}.")

    @staticmethod
    def _check_speed(speed: float) -> None:
        if not MIN_SPEED <= speed <= MAX_SPEED:
            raise UsageError(f"The speed {speed:g} is out of range: use {MIN_SPEED:g} to {MAX_SPEED:g}.")

    def _resolve(self, voice: str | Voice | None) -> Voice:
        return voice if isinstance(voice, Voice) else self._registry.get(voice)

    def _collect(self, request: SpeechRequest) -> Speech:
        chunks = list(self.chunks(request))
        return Speech(
            np.concatenate([chunk.samples for chunk in chunks]),
            self.sample_rate,
            chunks[-1].timings,
            request.seed or 0,
            tuple(token for chunk in chunks for token in chunk.tokens),
        )


Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""What LM and flow are computed in; int8 reads the LM's weights in one byte each and is bf16 elsewhere."""

_DTYPES: dict[Precision, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "bfloat16"}


def parse_precision(name: str) -> Precision:
    """The precision of that name. Raises UsageError listing those there are."""
    for precision in get_args(Precision):
        if name == precision:
            return precision
    raise UsageError(f"There is no precision '{name}': use {', '.join(get_args(Precision))}.")


def load(
    name: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    precision: Precision = "fp32",
    normaliser: Choice | None = None,
    device: str = "auto",
    compile: bool = False,
) -> Fireside:
    """Load a model: None or 'hearth' is the bundled one; else a folder (ours or CosyVoice's), 'org/name' on Hugging
    Face or 'modelscope:org/name'. Its parts are read when first needed.

    threads: CPU threads that torch uses in this process; None leaves its choice. precision: fp32 is exact, bf16 and
    int8 are smaller and faster; fp16 is for GPUs. normaliser: what rewrites numbers and units for a CosyVoice model:
    'wetext' (its default), 'ttsfrd', 'none', or a function of text and language. device: 'cpu', 'cuda', 'cuda:1',
    'mps', or 'auto': an NVIDIA GPU where there is one, else the CPU. compile: see Engine; it pays on GPUs. Raises
    ModelError, ConfigError or UsageError."""
    import torch

    from fireside.models.config import RegulatedFlowConfig
    from fireside.models.device import find_device
    from fireside.models.official import OfficialFolder, open_folder
    from fireside.spk2info import voices_of

    dtype: torch.dtype = getattr(torch, _DTYPES[parse_precision(precision)])
    place = find_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    model = open_folder(resolve(name), dtype, place)
    config = model.config
    bundled: Path | dict[str, Voice] = model.path / "voices"
    if isinstance(model, OfficialFolder):
        bundled = voices_of(model.speakers, config.name, config.mel.n_mels)
    ratio = None if isinstance(config.flow, RegulatedFlowConfig) else config.flow.token_mel_ratio
    registry = VoiceRegistry(
        bundled, data_dir() / "voices", config.default_voice, config.name, ratio, lambda: model.flow_fingerprint
    )
    return Fireside(model, registry, "int8" if precision == "int8" else "float", normaliser, compile)
