"""Text to ids with a byte-level vocabulary and special tokens: what the text tokenizers of all versions share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from fireside.text.official.bpe import BytePairs, WordPattern


class TextTokenizer:
    """Text to ids. Immutable, safe to share between threads.

    special: ids of the tokens that are recognised in the text before anything else, the longest first.
    compose: bring the text into Unicode's form NFC first (Qwen)."""

    def __init__(
        self, pairs: BytePairs, words: WordPattern, special: Mapping[str, int], size: int, compose: bool
    ) -> None:
        self.special = dict(special)
        self.vocab_size = size
        """One more than the highest id."""
        self.compose = compose
        self._pairs, self._words = pairs, words
        longest_first = sorted(self.special, key=len, reverse=True)
        self._tags = re.compile("|".join(map(re.escape, longest_first)))

    def encode(self, text: str) -> list[int]:
        """The text's ids, special tokens in it included."""
        text = unicodedata.normalize("NFC", text) if self.compose else text
        ids: list[int] = []
        for part, tag in self.parts(text):
            ids += [self.special[part]] if tag else self._plain(part)
        return ids

    def parts(self, text: str) -> list[tuple[str, bool]]:
        """The text in order, cut at its special tokens; with each part, whether it is one."""
        parts: list[tuple[str, bool]] = []
        start = 0
        for match in self._tags.finditer(text):
            parts += [(text[start : match.start()], False), (match[0], True)]
            start = match.end()
        parts.append((text[start:], False))
        return [(part, tag) for part, tag in parts if part]

    def certain(self, text: str) -> int:
        """How many characters of a text that goes on have ids that nothing after them can change."""
        text = text[: self._unfinished_tag(text)]
        parts = self.parts(text)
        if not parts or parts[-1][1]:
            return len(text)
        last = parts[-1][0]
        words = self._words.words(last)
        # The last word may go on. So may white space before it, which is cut by what follows, and an apostrophe,
        # which "l" leaves alone and "ll" takes.
        keep = len(words) - 1
        while keep > 0 and (words[keep - 1].isspace() or words[keep - 1].endswith("'")):
            keep -= 1
        return len(text) - sum(map(len, words[keep:]))

    def _unfinished_tag(self, text: str) -> int:
        """Where a special token may have begun whose end is still to come; else the text's length."""
        longest = max(map(len, self.special))
        for start in range(max(0, len(text) - longest + 1), len(text)):
            tail = text[start:]
            if any(tag.startswith(tail) and tag != tail for tag in self.special):
                return start
        return len(text)

    def _plain(self, text: str) -> list[int]:
        return [token for word in self._words.words(text) for token in self._pairs.encode(word)]
