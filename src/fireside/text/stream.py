"""Text that arrives bit by bit, as from a language model: pieces as soon as their sentences are complete."""

from __future__ import annotations

import re

from fireside.text.chunks import main_language
from fireside.text.clean import clean
from fireside.text.frontend import Frontend, Piece
from fireside.text.sentences import MIN_SECONDS, clauses, join_short, seconds, sentence_ends, sentences

# A whole word (or a Chinese character) must follow a sentence's end before the end is certain: "3." may
# become "3.14", and "p.m. The" ends a sentence where "p.m. Thursday" does not.
_CERTAIN = re.compile(r"\s*(?:[\u3400-\u4dbf\u4e00-\u9fff]|\S+\s)")


class StreamingFrontend:
    """One request's text: `push` what arrives, then `finish`. Not shared between requests.

    The pieces are those of `Frontend.pieces` for the whole text, but for a very short last sentence, which
    can no longer be joined to what has been given out.
    """

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._rest = ""
        self._gave = False
        self._language = "en"

    def push(self, text: str) -> list[Piece]:
        """Add text; returns the pieces that are now certain. Raises `TextError` as `Frontend.pieces` does."""
        self._rest = clean(self._rest + text)
        self._language = main_language(self._rest, self._language)
        ends = [end for end in sentence_ends(self._rest) if _CERTAIN.match(self._rest, end)]
        # A short sentence waits for the next one.
        while ends:
            done = sentences(self._rest[: ends[-1]])
            parts = [clause for sentence in done for clause in clauses(sentence)]
            pieces = join_short(parts, more_follows=True)
            if pieces and seconds(pieces[-1]) >= MIN_SECONDS:
                self._rest = self._rest[ends[-1] :]
                return self._speak(pieces)
            ends.pop()
        return []

    def flush(self) -> list[Piece]:
        """The pieces of what is left, as if its sentence ended here; none where it has nothing to say."""
        rest, self._rest = self._rest, ""
        if not any(c.isalnum() for c in rest):
            return []
        self._gave = True
        return self._frontend.pieces(rest)

    def finish(self) -> list[Piece]:
        """The pieces of what is left. Raises `TextError` if there was nothing to say in all of the text."""
        rest, self._rest = self._rest, ""
        if self._gave and not any(c.isalnum() for c in rest):
            return []
        return self._frontend.pieces(rest)

    def _speak(self, texts: list[str]) -> list[Piece]:
        pieces = [piece for text in texts for piece in self._frontend.piece(text, self._language)]
        self._gave = self._gave or bool(pieces)
        return pieces
