"""Text to the tokens that hearth's language model reads: the public face of the text side."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fireside.errors import TextError
from fireside.text import brackets, normalize_en, normalize_zh
from fireside.text.chunks import main_language, split_languages
from fireside.text.clean import clean, is_han
from fireside.text.english import English, Token
from fireside.text.mandarin import read
from fireside.text.numbers_en import digits
from fireside.text.phones import BOUNDARY_ID, PAUSE_IDS, PHONE_ID, PHONES, encode
from fireside.text.sentences import sentences, speakable, split

_ITEM = re.compile(
    r"(?P<zh>[\u3400-\u4dbf\u4e00-\u9fff〇]+)|(?P<en>[A-Za-z]+(?:'[A-Za-z]+)*'?|'[A-Za-z]+)|(?P<digit>\d+)"
    r"|(?P<stop>\.\.\.+|[.](?![A-Za-z\d])|(?<=[a-z])\.(?=[A-Z][a-z])|[,;:，；：、()（）\[\]{}—。!?！？]|--+|\s[-–](?=\s)|–)|(?P<dot>\.)"
)
_PAUSES = {
    **dict.fromkeys(",;:，；：、()（）[]{}—–", ","),
    **dict.fromkeys(".。", "."),
    **dict.fromkeys("?？", "?"),
    **dict.fromkeys("!！", "!"),
}
_RANK = {",": 0, ".": 1, "!": 2, "?": 3}


@dataclass(frozen=True)
class Word:
    """One English word or one Chinese character.

    `tokens`: ids of its phones, then a pause (at most one), then the boundary where a word ends; a character
    inside a Mandarin word has no boundary.
    """

    text: str
    lang: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """What is spoken in one go: the text it was made of, and its words."""

    text: str
    words: tuple[Word, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """All tokens in order."""
        return tuple(token for word in self.words for token in word.tokens)


@dataclass
class _Item:
    """A word on its way to tokens: English text, one Chinese run, or phones by hand."""

    kind: str
    text: str
    pause: str = ""
    phones: tuple[str, ...] = ()


class Frontend:
    """Reads English and Mandarin. Construct once per model; immutable, safe to share between threads."""

    vocab_size: int = len(PHONES)

    def __init__(self, english: English | None = None) -> None:
        """`english`: what pronounces English words; by default the package's lexicon with its learned
        fallback."""
        self._english = english

    def pieces(self, text: str) -> list[Piece]:
        """A text of any length in pieces of at most about 12 seconds, each ending in a pause.

        Raises `TextError` for text with nothing to say, for a script that hearth cannot read, and for a
        bracket that is no phone.
        """
        plain = clean(text)
        language = main_language(plain)
        out = [piece for part in split(plain) for piece in self.piece(part, language)]
        if not out:
            raise TextError(nothing_to_say(text))
        return out

    def words(self, text: str) -> tuple[Word, ...]:
        """The words of a prompt's text, not split, no pause added at the end; raises as `pieces` does."""
        plain = clean(text)
        language = main_language(plain)
        parts = [words for part in sentences(plain) if (words := self._words(part, language))]
        if not parts:
            raise TextError(nothing_to_say(text))
        return tuple(word for words in parts[:-1] for word in _paused(words)) + parts[-1]

    def reading(self, text: str) -> str:
        """What is read, in words: "$5" as "five dollars"; for people, and for the tests of the normaliser."""
        parts = []
        plain = clean(text)
        for sentence in sentences(plain):
            parts += [item.text + item.pause for item in self._items(sentence, main_language(plain))]
        joined = " ".join(parts)
        return re.sub(r"(?<=[\u4e00-\u9fff,.?!])\s(?=[\u4e00-\u9fff])", "", joined)

    def piece(self, text: str, language: str = "en") -> list[Piece]:
        """One piece of clean text as it is, without splitting; [] if there is nothing to say in it.

        `language`: "en" or "zh", that of numbers in a piece without letters.
        """
        words = self._words(text, language)
        if not words:
            return []
        return [Piece(text, _paused(words))]

    def _items(self, text: str, language: str) -> list[_Item]:
        items: list[_Item] = []
        start = 0
        for match in brackets.RUN.finditer(text):
            self._add_text(items, text[start : match.start()], language)
            for spoken in brackets.parse(match[0]):
                items.append(_Item("hand-" + spoken.lang, spoken.text, phones=spoken.phones))
            start = match.end()
        self._add_text(items, text[start:], language)
        return items

    @staticmethod
    def _add_text(items: list[_Item], text: str, main: str) -> None:
        for language, stretch in split_languages(text, main):
            normal = (normalize_zh if language == "zh" else normalize_en).normalize(stretch)
            for match in _ITEM.finditer(normal):
                kind, found = match.lastgroup, match[0].strip()
                if kind == "stop":
                    if items:
                        after = normal[match.end() :].lstrip()[:1]
                        goes_on = found[0] == "-" or (found[:2] == ".." and (after.islower() or is_han(after)))
                        mark = "," if goes_on else _PAUSES[found[0]]
                        items[-1].pause = max(items[-1].pause or mark, mark, key=_RANK.__getitem__)
                elif kind == "dot":
                    items.append(_Item("en", "dot"))
                elif kind == "digit":
                    items += [_Item("en", word) for word in digits(found).split()]
                elif kind == "zh" and items and items[-1].kind == "zh" and not items[-1].pause:
                    items[-1].text += found
                elif kind:
                    items.append(_Item(kind, found))

    def _words(self, text: str, language: str) -> tuple[Word, ...]:
        if not speakable(text):
            return ()
        items = self._items(text, language)
        out: list[Word] = []
        shout = _is_shouted(items)
        i = 0
        while i < len(items):
            item = items[i]
            if item.kind == "en":
                run = i
                while run < len(items) and items[run].kind == "en":
                    run += 1
                out += self._english_words(items[i:run], shout)
                i = run
                continue
            if item.kind == "zh":
                out += _mandarin_words(item)
            else:
                next_joined = i + 1 < len(items) and items[i + 1].kind == item.kind == "hand-zh"
                out.append(_word(item.text, item.kind[5:], item.phones, item.pause, not next_joined))
            i += 1
        return tuple(out)

    def _english_words(self, items: list[_Item], shout: bool) -> list[Word]:
        if self._english is None:
            self._english = English()
        tokens = [
            Token(item.text, pause=bool(item.pause) or i == len(items) - 1, shout=shout) for i, item in enumerate(items)
        ]
        spoken = self._english.pronounce(tokens)
        return [
            _word(item.text, "en", phones, item.pause, True)
            for item, phones in zip(items, spoken, strict=True)
            if phones
        ]


def _mandarin_words(item: _Item) -> list[Word]:
    readings = read(item.text)
    last = len(readings) - 1
    return [
        _word(r.char, "zh", r.phones, item.pause if i == last else "", r.word_end or i == last)
        for i, r in enumerate(readings)
    ]


def _word(text: str, lang: str, phones: tuple[str, ...], pause: str, ends: bool) -> Word:
    tokens = encode(phones)
    if pause:
        tokens += (PHONE_ID[pause],)
    if ends or pause:
        tokens += (BOUNDARY_ID,)
    return Word(text, lang, tokens)


def _paused(words: tuple[Word, ...]) -> tuple[Word, ...]:
    """The words with a full stop after the last one if no pause is there."""
    last = words[-1]
    if PAUSE_IDS.intersection(last.tokens):
        return words
    tokens = (*(t for t in last.tokens if t != BOUNDARY_ID), PHONE_ID["."], BOUNDARY_ID)
    return (*words[:-1], Word(last.text, last.lang, tokens))


def _is_shouted(items: list[_Item]) -> bool:
    """Whether a sentence is in capitals throughout, so that capitals do not mean initials."""
    words = [item.text for item in items if item.kind == "en" and len(item.text) > 1]
    return len(words) > 2 and all(word == word.upper() for word in words)


def nothing_to_say(text: str) -> str:
    """The sentence of the error for empty and punctuation-only text."""
    if not text.strip():
        return "The text is empty: give it at least one word to say."
    shown = text.encode("utf-8", "ignore").decode().strip()[:20]
    if any(is_han(c) for c in text):
        return f'None of the characters in "{shown}" has a known reading.'
    return f'There is nothing to say in "{shown}": it has no letters or digits.'
