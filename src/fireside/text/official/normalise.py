"""The choice of a text normaliser: what turns "3 kg" into words before the text is cut and tokenised.

It is stated, never guessed: a normaliser that was asked for and is not installed is an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from fireside.errors import FiresideError, TextError, UsageError
from fireside.text.official.rules import Language

Rewrite = Callable[[str, Language], str]
"""A user's own normaliser: text and its language ("zh" or "en") to text."""

Choice = str | Rewrite
"""wetext, ttsfrd, ttsfrd:FOLDER (its resource folder), none, or a function."""

DEFAULT = "wetext"
_TTSFRD_RESOURCES = Path("CosyVoice-ttsfrd") / "resource"


class Normaliser(Protocol):
    """Rewrites text; one that also cuts it into sentences sets `cuts`."""

    cuts: bool

    def __call__(self, text: str, language: Language) -> list[str]:
        """The text as it is spoken: one string, or its sentences if `cuts`."""


class Rewriter:
    """A function from text to text, as a normaliser."""

    cuts = False

    def __init__(self, rewrite: Rewrite, name: str) -> None:
        self._rewrite, self._name = rewrite, name

    def __call__(self, text: str, language: Language) -> list[str]:
        """See Normaliser. Raises TextError for a text that the function fails on."""
        try:
            return [self._rewrite(text, language)]
        except FiresideError:
            raise
        except Exception as error:  # a library's or a user's: its own kinds, assertions included
            reason = str(error) or type(error).__name__
            raise TextError(
                f"The text normaliser {self._name} failed on '{text[:40]}' ({reason}): write that otherwise, or choose "
                "another normaliser."
            ) from error


class Wetext:
    """WeText's grammars, loaded when the first text comes."""

    @cached_property
    def _engines(self) -> dict[Language, Any]:
        try:
            module: Any = import_module("wetext")
        except ImportError as error:
            raise UsageError(_not_installed("wetext", "pip install wetext")) from error
        return {"zh": module.Normalizer(remove_erhua=False), "en": module.Normalizer()}

    def __call__(self, text: str, language: Language) -> str:
        """A `Rewrite`. Raises UsageError when wetext is not installed."""
        normalised: str = self._engines[language].normalize(text)
        return normalised


class Ttsfrd:
    """Alibaba's closed front end, which rewrites and cuts in one go; loaded when the first text comes."""

    cuts = True

    def __init__(self, resources: Path) -> None:
        self._resources = resources

    @cached_property
    def _engine(self) -> Any:
        try:
            module: Any = import_module("ttsfrd")
        except ImportError as error:
            raise UsageError(_not_installed("ttsfrd", "the wheel in modelscope's iic/CosyVoice-ttsfrd")) from error
        engine = module.TtsFrontendEngine()
        if engine.initialize(str(self._resources)) is not True:
            raise UsageError(
                f"ttsfrd found no resources in {self._resources}: unpack resource.zip of modelscope's "
                "iic/CosyVoice-ttsfrd there, or name their folder as ttsfrd:FOLDER."
            )
        engine.set_lang_type("pinyinvg")
        return engine

    def __call__(self, text: str, language: Language) -> list[str]:
        """See Normaliser. Raises UsageError when ttsfrd or its resources are not there."""
        return [sentence["text"] for sentence in json.loads(self._engine.do_voicegen_frd(text))["sentences"]]


def make_normaliser(choice: Choice = DEFAULT, folder: Path | None = None) -> Normaliser | None:
    """The normaliser of a choice; None for "none".

    folder: in the model's; ttsfrd's CosyVoice-ttsfrd/resource is looked for beside the model, as the original has it.
    Raises UsageError when there is none of that name; one that is not installed says so at its first text."""
    if not isinstance(choice, str):
        return Rewriter(choice, getattr(choice, "__name__", "of yours"))
    name, _, resources = choice.partition(":")
    if choice == "none":
        return None
    if choice == "wetext":
        return Rewriter(Wetext(), "wetext")
    if name == "ttsfrd":
        return Ttsfrd(Path(resources).expanduser() if resources else _beside(folder or Path()))
    raise UsageError(
        f"There is no text normaliser '{choice}'. There are: wetext, ttsfrd, none, or a function of yours."
    )


def _beside(folder: Path) -> Path:
    """ttsfrd's resources beside a model's folder, or beside the one that holds its text tokenizer's."""
    around = folder.resolve().parents
    found = [parent / _TTSFRD_RESOURCES for parent in around[:2] if (parent / _TTSFRD_RESOURCES).is_dir()]
    return found[0] if found else around[0] / _TTSFRD_RESOURCES


def _not_installed(name: str, how: str) -> str:
    return (
        f"The text normaliser {name} is not installed: install it ({how}), or choose another, for instance 'none', "
        "which leaves numbers to the model."
    )
