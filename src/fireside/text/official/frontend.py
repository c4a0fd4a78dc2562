"""Text to the ids that the LMs of CosyVoice 1, 2 and 3 read: normalise, cut, tokenise; prompts and instructions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fireside.errors import TextError
from fireside.text.frontend import Piece, Word, nothing_to_say
from fireside.text.official import rules
from fireside.text.official.normalise import DEFAULT, Choice, Normaliser, make_normaliser
from fireside.text.official.paragraphs import split_paragraph
from fireside.text.official.qwen import END_OF_PROMPT, TAGS_2, TAGS_3, qwen_tokenizer
from fireside.text.official.stream import TextStream
from fireside.text.official.tokenizer import TextTokenizer
from fireside.text.official.whisper import cosyvoice1_tokenizer

Kind = Literal["cosyvoice1", "cosyvoice2", "cosyvoice3"]

SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True)
class Style:
    """How a version is told what to do before the text.

    end: what ends an instruction. system: the sentence that CosyVoice 3 was trained with before every text, with or
    without an instruction."""

    end: str = END_OF_PROMPT
    system: str | None = None


STYLES: dict[Kind, Style] = {
    # Not a token of Whisper's vocabulary but plain text, in the form that the released weights were trained with.
    "cosyvoice1": Style(end="<endofprompt>"),
    "cosyvoice2": Style(),
    "cosyvoice3": Style(system=SYSTEM),
}

_COMMAS_AT_END = re.compile("[，,、]+$")


class OfficialFrontend:
    """The text side of one official model. Immutable, safe to share between threads.

    Where the caller's own text begins with an instruction that ends in `<|endofprompt|>` (as the original asks of
    its callers), `pieces` leaves it out and `written_instruction` gives it; of a prompt's ids, `split_prompt`."""

    def __init__(self, tokenizer: TextTokenizer, style: Style, normaliser: Normaliser | None) -> None:
        """`normaliser`: None leaves numbers and units as they are written (in English, digits are spelled out)."""
        self.tokenizer = tokenizer
        self._style = style
        self._normaliser = normaliser

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return self.tokenizer.vocab_size

    def pieces(self, text: str, normalise: bool = True) -> list[Piece]:
        """A text of any length in the pieces that are spoken in one go, each with one Word of all its ids.

        Text that holds a `<|tag|>` is one piece as it is, as is every text with `normalise` false. Raises TextError
        for text with nothing to say."""
        written = [_body(text)] if not normalise or is_tagged(text) else self.split(text)
        pieces = [Piece(piece, (self._word(piece),)) for piece in written if _speakable(piece)]
        if not pieces:
            raise TextError(nothing_to_say(_body(text)))
        return pieces

    def words(self, text: str, normalise: bool = True) -> tuple[Word, ...]:
        """What is said in a prompt, in one Word of all its ids, those of an instruction before it included.

        Raises TextError for text with nothing to say."""
        plain = text if not normalise or is_tagged(text) else self.normalise(text)
        if not _speakable(_body(plain)):
            raise TextError(nothing_to_say(_body(text)))
        return (self._word(plain),)

    def instruction(self, text: str | None = None) -> tuple[int, ...]:
        """Ids that go before everything else: an instruction and its end, which the caller may leave out, and the
        system sentence of a version that has one, also where nothing is told (None).

        An instruction with a `<|endofprompt|>` of its own is taken as it is. Raises TextError for an empty one and
        for text after its end."""
        system = self._style.system
        if text is None:
            return tuple(self.tokenizer.encode(system + self._style.end)) if system else ()
        told, mark, after = text.partition(END_OF_PROMPT)
        if not told.strip():
            raise TextError("The instruction is empty: say how the text is to be spoken, or leave the instruction out.")
        if after.strip():
            raise TextError(f"An instruction ends at {END_OF_PROMPT}, but there is more of it: '{after.strip()[:40]}'.")
        if mark:
            return tuple(self.tokenizer.encode(told + mark))
        told = told.strip().removesuffix(self._style.end)
        if system and not told.startswith(system):
            told = f"{system} {told}"
        return tuple(self.tokenizer.encode(told + self._style.end))

    def written_instruction(self, text: str) -> str | None:
        """The instruction that a text begins with, if its caller wrote one: all up to `<|endofprompt|>`, for
        `instruction`."""
        before, mark, _ = text.partition(END_OF_PROMPT)
        return before + mark if mark else None

    def split_prompt(self, ids: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A prompt's ids in two: the instruction that they begin with, its `<|endofprompt|>` included, and the rest."""
        end = self.tokenizer.special.get(END_OF_PROMPT)
        after = ids.index(end) + 1 if end in ids else 0
        return tuple(ids[:after]), tuple(ids[after:])

    def stream(self, join_parts: bool = True) -> TextStream:
        """For text that arrives bit by bit; it is not normalised.

        join_parts false: every part is tokenised by itself, as the original does."""
        return TextStream(self.tokenizer, join_parts)

    def normalise(self, text: str) -> str:
        """A text as it is spoken, in one string; "" when there are only marks in it."""
        plain = "".join(self._normalised(text))
        return "" if rules.only_punctuation(plain.strip()) else plain

    def split(self, text: str) -> list[str]:
        """A text as it is spoken, in pieces; those of only marks are dropped."""
        parts = self._normalised(text)
        if not (self._normaliser and self._normaliser.cuts):
            parts = [
                piece
                for part in parts
                for piece in split_paragraph(
                    part, rules.language_of(part), lambda text: len(self.tokenizer.encode(text))
                )
            ]
        return [part for part in parts if not rules.only_punctuation(part.strip())]

    def _normalised(self, text: str) -> list[str]:
        text = text.strip()
        normaliser = self._normaliser
        if normaliser is not None and normaliser.cuts:
            return normaliser(text, rules.language_of(text))
        language = rules.language_of(text)
        if normaliser is not None:
            text = self._around_tags(text, lambda part: "".join(normaliser(part, language)))
        return [self._chinese(text) if language == "zh" else self._around_tags(text, rules.spell_numbers)]

    @staticmethod
    def _chinese(text: str) -> str:
        text = rules.spell_powers(rules.drop_blanks(text.replace("\n", "")))
        text = text.replace(".", "。").replace(" - ", "，")
        return _COMMAS_AT_END.sub("。", rules.drop_brackets(text))

    def _around_tags(self, text: str, rewrite: Callable[[str], str]) -> str:
        """Rewrite what is between special tokens, so that [AH0] stays one, and keep the blanks beside them."""
        out = []
        for part, tag in self.tokenizer.parts(text):
            inner = part.strip()
            if tag or not inner:
                out.append(part)
            else:
                start = part.index(inner)
                out.append(part[:start] + rewrite(inner) + part[start + len(inner) :])
        return "".join(out)

    def _word(self, text: str) -> Word:
        return Word(text, rules.language_of(text), tuple(self.tokenizer.encode(text)))


def is_tagged(text: str) -> bool:
    """Whether a text holds tags such as `<|en|>`: it is then spoken as it is written."""
    return "<|" in text and "|>" in text


def _body(text: str) -> str:
    before, mark, after = text.partition(END_OF_PROMPT)
    return after if mark else before


def _speakable(text: str) -> bool:
    return any(char.isalnum() for char in text)


def make_frontend(folder: Path, kind: Kind, normaliser: Choice = DEFAULT) -> OfficialFrontend:
    """The text side of a model; `folder` is where the files of its text tokenizer are.

    Raises ModelError for a missing or damaged vocabulary, UsageError for a normaliser that there is not."""
    return OfficialFrontend(_tokenizer(folder, kind), STYLES[kind], make_normaliser(normaliser, folder))


def _tokenizer(folder: Path, kind: Kind) -> TextTokenizer:
    if kind == "cosyvoice1":
        return cosyvoice1_tokenizer(folder)
    return qwen_tokenizer(folder, TAGS_2 if kind == "cosyvoice2" else TAGS_3)
