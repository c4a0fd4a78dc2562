"""Byte-level byte-pair encoding, as GPT-2, Whisper and Qwen use it: text to ids and the words it is cut into first.

Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016); on bytes: Radford et al.,
"Language Models are Unsupervised Multitask Learners" (2019)."""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from fireside.errors import ModelError

_WHITE_SPACE = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
)
"""Unicode's White_Space; `str.isspace` has four control characters more."""


def _kind(char: str) -> str:
    """L for a letter, N for a number, a blank for itself, n for a line break, s for other white space, O for the
    rest."""
    if char == " ":
        return " "
    if char in "\r\n":
        return "n"
    if char in _WHITE_SPACE:
        return "s"
    category = unicodedata.category(char)[0]
    return category if category in "LN" else "O"


@dataclass(frozen=True)
class WordPattern:
    """How text is cut before pairs are merged: no merge crosses a cut.

    `endings` is matched against the text, `rest` against the text's kinds of characters (see `_kind`), which says
    what Python's `re` cannot: "a letter", "a number"."""

    endings: re.Pattern[str]
    rest: re.Pattern[str]

    def words(self, text: str) -> list[str]:
        """The words in order; joined, they are the text."""
        kinds = "".join(map(_kind, text))
        words: list[str] = []
        start = 0
        while start < len(text):
            match = self.endings.match(text, start) or self.rest.match(kinds, start)
            end = match.end() if match else len(text)  # `rest` has a word for every kind
            words.append(text[start:end])
            start = end
        return words


GPT2_WORDS = WordPattern(
    re.compile("'(?:s|t|re|ve|m|ll|d)"),
    re.compile(" ?L+| ?N+| ?O+|[ ns]+(?![LNO])|[ ns]+"),
)
"""GPT-2's and Whisper's: a blank belongs to the word after it."""

QWEN_WORDS = WordPattern(
    re.compile("'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE | re.ASCII),
    re.compile("[ sO]?L+|N| ?O+n*|[ ns]*n+|[ ns]+(?![LNO])|[ ns]+"),
)
"""Qwen's: digits one by one, a sign belongs to the letters after it."""


class BytePairs:
    """The vocabulary and the order of merges. Immutable.

    ids: the id of every token, by its bytes. merges: the rank of every pair of tokens that may be joined, lowest
    first; None where a pair's rank is the id of what it makes (tiktoken's files)."""

    def __init__(self, ids: Mapping[bytes, int], merges: Mapping[tuple[bytes, bytes], int] | None = None) -> None:
        lacking = [byte for byte in range(256) if bytes([byte]) not in ids]
        if lacking:
            raise ModelError(f"The text vocabulary has no token for the byte {lacking[0]}: get the model again.")
        self._ids = ids
        self._merges = merges

    def encode(self, word: str) -> list[int]:
        """Ids of one word of `WordPattern.words`."""
        piece = word.encode("utf-8", "replace")
        whole = self._ids.get(piece)
        if whole is not None and (self._merges is None or len(piece) == 1):
            return [whole]
        return [self._ids[token] for token in self._merged(piece)]

    def _rank(self, left: bytes, right: bytes) -> int | None:
        if self._merges is None:
            return self._ids.get(left + right)
        return self._merges.get((left, right))

    def _merged(self, piece: bytes) -> list[bytes]:
        """Tokens of a piece: the pair of lowest rank is joined, the leftmost of equals first, until none is left."""
        parts = [piece[i : i + 1] for i in range(len(piece))]
        after = [*range(1, len(parts)), -1]
        before = [-1, *range(len(parts) - 1)]
        queue: list[tuple[int, int, bytes, bytes]] = []

        def offer(left: int) -> None:
            right = after[left]
            if right != -1:
                rank = self._rank(parts[left], parts[right])
                if rank is not None:
                    heapq.heappush(queue, (rank, left, parts[left], parts[right]))

        for i in range(len(parts)):
            offer(i)
        while queue:
            _, left, first, second = heapq.heappop(queue)
            right = after[left]
            if parts[left] != first or right == -1 or parts[right] != second:
                continue  # one of the two has been joined elsewhere since
            parts[left], parts[right] = first + second, b""
            after[left] = after[right]
            if after[left] != -1:
                before[after[left]] = left
            if before[left] != -1:
                offer(before[left])
            offer(left)
        return [part for part in parts if part]
