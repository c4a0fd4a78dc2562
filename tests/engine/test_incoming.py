"""Incoming text for the mix layout: where a piece ends, and that the way the text was cut plays no role."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fireside.engine.incoming import PIECE_SECONDS, Portions
from fireside.errors import TextError
from fireside.text.sentences import seconds

SENTENCE = "The fire is lit, and the kettle sings of 3.14 cups of tea."


class Letters:
    """A text stream whose ids are its letters; the last one waits for what follows."""

    def __init__(self) -> None:
        self.rest = ""

    def push(self, text: str) -> list[int]:
        self.rest += text
        sure, self.rest = self.rest[:-1], self.rest[-1:]
        return [ord(char) for char in sure]

    def finish(self) -> list[int]:
        sure, self.rest = self.rest, ""
        return [ord(char) for char in sure]


@dataclass
class Heard:
    """In a machine's place: what it was given."""

    ids: list[int] = field(default_factory=list)
    max_tokens: int | None = None

    def push(self, ids: list[int]) -> None:
        self.ids += ids

    def end(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens


def pieces(parts: list[str]) -> list[Heard]:
    text = Portions(Letters, Heard, max_ratio=3.5)  # type: ignore[arg-type]
    plans = [*text.begin(), *(plan for part in parts for plan in text.push(part)), *text.finish()]
    return [plan.machine for plan in plans]  # type: ignore[misc]


def said(heard: Heard) -> str:
    return "".join(map(chr, heard.ids))


@pytest.mark.parametrize("sentence", [f"{SENTENCE} ", "炉火已经点燃，水壶在唱歌。"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_piece_ends_with_a_sentence_when_it_is_long_enough(sentence: str, size: int) -> None:
    text = sentence * 12
    got = pieces([text[i : i + size] for i in range(0, len(text), size)])
    assert "".join(map(said, got)) == text
    assert len(got) > 2
    for heard in got:
        assert said(heard).endswith(sentence)
        assert seconds(said(heard)) < PIECE_SECONDS + seconds(sentence)
        assert heard.max_tokens == int(3.5 * len(heard.ids))
    for heard in got[:-1]:
        assert seconds(said(heard)) >= PIECE_SECONDS


def test_a_short_text_is_one_piece_that_begins_at_once() -> None:
    text = Portions(Letters, Heard, max_ratio=1.0)  # type: ignore[arg-type]
    assert len(text.push("Good ")) == 1
    assert text.push("evening.") == []
    assert text.finish() == []


def test_nothing_to_say() -> None:
    with pytest.raises(TextError):
        pieces([])
    with pytest.raises(TextError):
        pieces([" ", "..."])


def test_a_flush_ends_the_piece_and_the_next_begins_anew() -> None:
    text = Portions(Letters, Heard, max_ratio=2.0)  # type: ignore[arg-type]
    (first,) = text.push("Good ")
    assert text.flush() == []
    assert said(first.machine) == "Good "  # type: ignore[arg-type]
    assert first.machine.max_tokens == 10  # type: ignore[union-attr]
    assert text.flush() == [], "there is nothing new to say"
    (second,) = text.push("evening.")
    assert text.finish() == []
    assert said(second.machine) == "evening."  # type: ignore[arg-type]
