"""Normalised text to pieces that are spoken in one go, as the original cuts it."""

from __future__ import annotations

import re
from collections.abc import Callable

from fireside.text.official.rules import Language

_ENDS: dict[Language, str] = {"zh": "。？！；：、.?!;", "en": ".?!;:"}
_COMMAS = "，,"
_FULL_STOP: dict[Language, str] = {"zh": "。", "en": "."}


def split_paragraph(
    text: str,
    language: Language,
    count: Callable[[str], int],
    longest: int = 80,
    shortest: int = 60,
    join_below: int = 20,
    at_commas: bool = False,
) -> list[str]:
    """Pieces of a text, each of whole sentences; [] for a text without any.

    `count` measures English text (the original: text tokens); Chinese is measured in characters. A piece is closed
    when the next sentence would make it longer than `longest` and it is longer than `shortest` by itself; a last
    piece shorter than `join_below` is joined to the one before. A text that does not end in a mark gets a full stop."""
    measure = len if language == "zh" else count
    marks = _ENDS[language] + (_COMMAS if at_commas else "")
    if text and text[-1] not in marks:
        text += _FULL_STOP[language]
    pieces: list[str] = []
    current = ""
    for sentence in _sentences(text, marks):
        if measure(current + sentence) > longest and measure(current) > shortest:
            pieces.append(current)
            current = ""
        current += sentence
    if pieces and current and measure(current) < join_below:
        pieces[-1] += current
    elif current:
        pieces.append(current)
    return pieces


def _sentences(text: str, marks: str) -> list[str]:
    """Sentences with their mark and a quote that closes after it. A mark without words before it is dropped."""
    found: list[str] = []
    for words, mark, quote in re.findall(rf"([^{re.escape(marks)}]*)([{re.escape(marks)}])([\"”]?)", text):
        if words:
            found.append(words + mark)
        if quote and found:
            found[-1] += quote
    return found
