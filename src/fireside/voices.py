"""The voice registry:

a voice is NAME.safetensors (what a model is conditioned on) beside NAME.json (what is known about it).
Nothing is ever unpickled.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fireside.errors import UnknownVoiceError, VoiceError, VoiceExistsError, VoiceNotSavedError

_log = logging.getLogger(__name__)

DEFAULT = "default"
EMBEDDING_DIM = 192
_NAME = re.compile(r"[^\W_][\w.-]{0,63}")
_TENSORS = ("embedding", "prompt_tokens", "prompt_mel")
_FITS = ("adaptation", "calibration")


@dataclass(frozen=True)
class VoiceCard:
    """What is known about a voice. `words` and `word_ends` describe what its prompt audio says.

    words: text-token ids of every word of the prompt; word_ends: for each, the prompt's speech token at which
    it ends (exclusive). Both are empty when the prompt's text is unknown. model: the model it was made for;
    fitted_to: the fingerprint of the flow that its adaptation and calibration were made with.
    """

    name: str
    language: str = ""
    description: str = ""
    licence: str = ""
    consent: str = ""
    prompt_text: str = ""
    model: str = ""
    fitted_to: str = ""
    words: tuple[tuple[int, ...], ...] = ()
    word_ends: tuple[int, ...] = ()
    bundled: bool = False


@dataclass(frozen=True, eq=False)
class Voice:
    """A voice ready to speak:

    its card, embedding [192], prompt_tokens [P] and prompt_mel [frames, n_mels], natural log, of the same stretch
    (CosyVoice 1's need not end at the same moment). A voice without a prompt has P = 0 and no frames.
    What it was fitted with, None where the flow is taken as it is: adaptation [parts, dim], added to the biases of the
    flow's adaptive norms (engine/adaptation.py); calibration [2, levels, n_mels], of every mel bin the quantiles of
    what the flow made of the prompt and of the prompt itself, natural log (engine/calibration.py).
    """

    card: VoiceCard
    embedding: np.ndarray = field(repr=False)
    prompt_tokens: np.ndarray = field(repr=False)
    prompt_mel: np.ndarray = field(repr=False)
    adaptation: np.ndarray | None = field(default=None, repr=False)
    calibration: np.ndarray | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The name it is asked for by."""
        return self.card.name

    @property
    def language(self) -> str:
        """Its first language, as 'en' or 'zh'."""
        return self.card.language

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""
        return sum(array.nbytes for array in self._arrays)

    @property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        fits = self.adaptation, self.calibration
        return self.embedding, self.prompt_tokens, self.prompt_mel, *(each for each in fits if each is not None)

    @cached_property
    def fingerprint(self) -> str:
        """The same for two voices that a request's mel comes out alike from, whatever their names."""
        digest = hashlib.sha256()
        for array in self._arrays:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def read_voice(folder: Path, name: str, bundled: bool = False) -> Voice:
    """Read NAME.json and NAME.safetensors. Raises VoiceError naming what is missing or wrong."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    card = read_card(folder, name, bundled)
    file = folder / f"{name}.safetensors"
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise VoiceError(f"The voice '{name}' cannot be read: {file} is missing or damaged ({error}).") from error
    missing = [key for key in _TENSORS if key not in tensors]
    if missing:
        raise VoiceError(f"The voice '{name}' is incomplete: {file} lacks {', '.join(missing)}.")
    embedding, prompt_tokens, prompt_mel = (tensors[key] for key in _TENSORS)
    adaptation, calibration = (tensors.get(key) for key in _FITS)
    return _checked(Voice(card, embedding, prompt_tokens, prompt_mel, adaptation, calibration), file)


def _checked(voice: Voice, file: Path) -> Voice:
    """The voice in float32 and int64, its shapes and word ends checked."""
    voice = replace(
        voice,
        embedding=voice.embedding.astype(np.float32),
        prompt_tokens=voice.prompt_tokens.astype(np.int64),
        prompt_mel=voice.prompt_mel.astype(np.float32),
        adaptation=None if voice.adaptation is None else voice.adaptation.astype(np.float32),
        calibration=None if voice.calibration is None else voice.calibration.astype(np.float32),
    )
    tokens, ends = len(voice.prompt_tokens), voice.card.word_ends
    good = (
        voice.embedding.shape == (EMBEDDING_DIM,)
        and voice.prompt_tokens.ndim == 1
        and voice.prompt_mel.ndim == 2
        and (tokens == 0) == (len(voice.prompt_mel) == 0)
        and np.isfinite(voice.embedding).all()
        and np.isfinite(voice.prompt_mel).all()
        and (voice.adaptation is None or (voice.adaptation.ndim == 2 and bool(np.isfinite(voice.adaptation).all())))
        and (voice.calibration is None or _calibrates(voice.calibration, voice.prompt_mel.shape[1]))
        and len(voice.card.words) == len(ends)
        and all(0 <= a <= b <= tokens for a, b in zip((0, *ends), (*ends, tokens), strict=True))
    )
    if not good:
        raise VoiceError(f"The voice '{voice.name}' is damaged: {file} does not fit its description.")
    return voice


def _calibrates(calibration: np.ndarray, n_mels: int) -> bool:
    """Whether these are two rows of quantiles of each of so many bins, in their order."""
    return (
        calibration.ndim == 3
        and len(calibration) == 2
        and calibration.shape[1] >= 2
        and calibration.shape[2] == n_mels
        and bool(np.isfinite(calibration).all())
        and bool((np.diff(calibration, axis=1) >= 0).all())
    )


def read_card(folder: Path, name: str, bundled: bool = False) -> VoiceCard:
    """Read NAME.json. Raises VoiceError when it is missing or not a voice's."""
    file = folder / f"{name}.json"
    try:
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        words = tuple(tuple(int(token) for token in word) for word in raw.pop("words", ()))
        ends = tuple(int(end) for end in raw.pop("word_ends", ()))
        return VoiceCard(**{**raw, "name": name, "words": words, "word_ends": ends, "bundled": bundled})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise VoiceError(f"The voice '{name}' cannot be read: {file}: {error}.") from error


def write_voice(folder: Path, voice: Voice, mel_dtype: type[np.floating[Any]] = np.float16) -> None:
    """Write a voice into `folder` (made if need be), the whole of it or nothing.

    Raises VoiceNotSavedError when it cannot be written, as on a full disk.
    """
    from safetensors.numpy import save

    card = asdict(voice.card)
    del card["bundled"], card["name"]
    tensors: dict[str, np.ndarray] = {
        "embedding": voice.embedding.astype(np.float32),
        "prompt_tokens": voice.prompt_tokens.astype(np.int32),
        "prompt_mel": np.ascontiguousarray(voice.prompt_mel.astype(mel_dtype)),
    }
    for key in _FITS:
        fit = getattr(voice, key)
        if fit is not None:
            tensors[key] = np.ascontiguousarray(fit.astype(np.float32))
    # The card comes last: a voice without its card is not there.
    contents = {
        ".safetensors": save(tensors),
        ".json": (json.dumps(card, ensure_ascii=False, indent=1) + "\n").encode(),
    }
    drafts = {suffix: folder / f".{voice.name}{suffix}.part" for suffix in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, content in contents.items():
            drafts[suffix].write_bytes(content)
        for suffix, draft in drafts.items():
            draft.replace(folder / f"{voice.name}{suffix}")
    except OSError as error:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        raise VoiceNotSavedError(
            f"The voice '{voice.name}' cannot be written to {folder}: {error.strerror}."
        ) from error


def check_name(name: str) -> str:
    """The name, if a voice may have it. Raises VoiceError saying what a name looks like."""
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise VoiceError(
            f"'{name}' cannot be a voice's name: use up to 64 letters, digits, '-', '_' and '.', a letter "
            "or digit first."
        )
    if name == DEFAULT:
        raise VoiceError(f"'{DEFAULT}' is the model's own default voice and cannot be replaced: choose another name.")
    return name


class VoiceRegistry:
    """The voices of a model and the user's own for that model; `default` is always among them if there are any.

    bundled: the model's voices, a folder of them or the voices themselves by name. token_mel_ratio: mel frames of a
    prompt's token; None where a model knows no such ratio (CosyVoice 1). fitted_to: the fingerprint of the model's
    flow; what a voice was fitted to another one is left out.
    """

    def __init__(
        self,
        bundled: Path | Mapping[str, Voice],
        user: Path,
        default: str,
        model: str,
        token_mel_ratio: int | None = None,
        fitted_to: Callable[[], str] = str,
    ) -> None:
        self.bundled = bundled
        self._ratio = token_mel_ratio
        self._fitted_to = fitted_to
        self.user = user
        self.model = model
        if default == DEFAULT and isinstance(bundled, Mapping):
            default = next(iter(bundled), DEFAULT)
        self.default = default

    def cards(self) -> list[VoiceCard]:
        """Every voice by name, `default` first (a copy of the card of the voice it stands for)."""
        own = [read_card(self.user, name) for name in self._names(self.user)]
        if isinstance(self.bundled, Mapping):
            bundled = [replace(voice.card, name=name, bundled=True) for name, voice in self.bundled.items()]
        else:
            bundled = [read_card(self.bundled, name, bundled=True) for name in self._bundled_names()]
        taken = {card.name for card in bundled}
        named = bundled + [card for card in own if card.name not in taken and card.model in ("", self.model)]
        first = [card for card in named if card.name == self.default]
        if self.default == DEFAULT or not first:
            return sorted(named, key=lambda card: (card.name != DEFAULT, card.name))
        alias = replace(first[0], name=DEFAULT)
        return [alias, *sorted(named, key=lambda card: card.name)]

    def get(self, name: str | None = None) -> Voice:
        """A voice by its name; None is `default`. Raises VoiceError that lists near names."""
        voice = self._find(name)
        if self._ratio is not None and len(voice.prompt_mel) != self._ratio * len(voice.prompt_tokens):
            raise VoiceError(
                f"The voice '{voice.name}' does not fit the model {self.model}: its prompt has "
                f"{len(voice.prompt_mel)} mel frames for {len(voice.prompt_tokens)} tokens. Make it again."
            )
        fitted = voice.adaptation is not None or voice.calibration is not None
        if fitted and voice.card.fitted_to != self._fitted_to():
            _log.warning(
                "The voice '%s' was fitted to other weights of %s and is used without that: add it again from its "
                "recording, and it will be closer.", voice.name, self.model,
            )  # fmt: skip
            return replace(voice, adaptation=None, calibration=None)
        return voice

    def _find(self, name: str | None) -> Voice:
        wanted = name or DEFAULT
        if wanted == DEFAULT:
            wanted = self.default
        if wanted in self._bundled_names():
            if isinstance(self.bundled, Mapping):
                voice = self.bundled[wanted]
                return replace(voice, card=replace(voice.card, name=wanted, bundled=True))
            return read_voice(self.bundled, wanted, bundled=True)
        if wanted in self._names(self.user):
            voice = read_voice(self.user, wanted)
            if voice.card.model not in ("", self.model):
                raise VoiceError(
                    f"The voice '{wanted}' was made for the model {voice.card.model}, not {self.model}: "
                    "remove it and add it again from its recording."
                )
            return voice
        raise UnknownVoiceError(self._unknown(wanted))

    def add(self, voice: Voice, replace_existing: bool = False) -> None:
        """Keep a voice of the user's. Raises VoiceError when the name is taken or not a name."""
        check_name(voice.name)
        if voice.name in self._bundled_names():
            raise VoiceExistsError(f"'{voice.name}' is a voice of the model {self.model}: choose another name.")
        if voice.name in self._names(self.user) and not replace_existing:
            raise VoiceExistsError(f"You already have a voice '{voice.name}': remove it first, or choose another name.")
        card = replace(voice.card, model=self.model)
        write_voice(self.user, replace(voice, card=card), np.float32)

    def remove(self, name: str) -> None:
        """Delete a voice of the user's. Raises VoiceError for the model's own voices and unknown names."""
        if name == DEFAULT or name in self._bundled_names():
            raise VoiceExistsError(
                f"'{name}' belongs to the model {self.model} and stays; only voices you added can go."
            )
        if name not in self._names(self.user):
            raise UnknownVoiceError(self._unknown(name))
        for suffix in (".json", ".safetensors"):
            (self.user / f"{name}{suffix}").unlink(missing_ok=True)

    def _unknown(self, name: str) -> str:
        known = [*self._bundled_names(), *self._names(self.user)]
        if not known:
            return f"The model {self.model} has no voice of its own: give it a recording, as fireside clone does."
        if self.default in known:
            known.insert(0, DEFAULT)
        near = _near(name, known)
        if near:
            return f"There is no voice '{name}'. Did you mean {_or(near)}?"
        return f"There is no voice '{name}'. There are: {', '.join(known)}."

    def _bundled_names(self) -> list[str]:
        return list(self.bundled) if isinstance(self.bundled, Mapping) else self._names(self.bundled)

    @staticmethod
    def _names(folder: Path) -> list[str]:
        return sorted(file.stem for file in folder.glob("*.json")) if folder.is_dir() else []


def _near(name: str, known: Sequence[str]) -> list[str]:
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.5)
    return [by_lower[candidate] for candidate in close]


def _or(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
