"""Text that arrives bit by bit, as from a language model, to ids as soon as they are certain."""

from __future__ import annotations

import unicodedata

from fireside.text.official.tokenizer import TextTokenizer


class TextStream:
    """One request's text: `push` what arrives, then `finish`. Not shared between requests.

    With `join_parts` the ids are those of the whole text, wherever it was cut: the last word waits for what follows.
    Without, every part is tokenised by itself and nothing waits, as in the original."""

    def __init__(self, tokenizer: TextTokenizer, join_parts: bool = True) -> None:
        self._tokenizer, self._join_parts = tokenizer, join_parts
        self._rest = ""

    def push(self, text: str) -> list[int]:
        """Add text; returns the ids that are now certain."""
        if not self._join_parts:
            return self._tokenizer.encode(text)
        rest = self._rest + text
        if self._tokenizer.compose:
            rest = unicodedata.normalize("NFC", rest)
        end = self._tokenizer.certain(rest)
        self._rest = rest[end:]
        return self._tokenizer.encode(rest[:end])

    def finish(self) -> list[int]:
        """The ids of what is left."""
        rest, self._rest = self._rest, ""
        return self._tokenizer.encode(rest)
