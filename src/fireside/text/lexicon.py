"""The English lexicon in the package: words to ARPAbet, by part of speech where that matters."""

from __future__ import annotations

import lzma
from functools import lru_cache
from importlib import resources

Phones = tuple[str, ...]


class Lexicon:
    """Read-only; keys are lower case, or as written where capitals change the word (Polish, ID)."""

    def __init__(self, table: dict[str, str]) -> None:
        self._table = table

    def __contains__(self, word: str) -> bool:
        return word in self._table or word.lower() in self._table

    def __len__(self) -> int:
        return len(self._table)

    def words(self) -> list[str]:
        """All keys, in the file's order."""
        return list(self._table)

    def get(self, word: str, tag: str = "") -> Phones | None:
        """Phones of a word; `tag` is one letter of part of speech (V, N, J, R, D, P, B), ignored if
        unknown."""
        fields = self._table.get(word)
        if fields is None:
            fields = self._table.get(word.lower())
            if fields is None:
                return None
        default, *variants = fields.split("\t")
        if tag:
            for variant in variants:
                if variant[0] == tag and variant[2:] != "*":
                    return tuple(variant[2:].split())
        return tuple(default.split())

    def variants(self, word: str) -> list[Phones]:
        """Every pronunciation of a word, the default first."""
        fields = self._table.get(word) or self._table.get(word.lower())
        if fields is None:
            return []
        default, *rest = fields.split("\t")
        return [tuple(default.split()), *(tuple(v[2:].split()) for v in rest if v[2:] != "*")]

    def is_initialism(self, word: str) -> bool:
        """Whether a word in capitals is spelled by its letters when it is a noun (ID, IT, US)."""
        return "N=*" in self._table.get(word, "").split("\t")


@lru_cache(maxsize=1)
def english_lexicon() -> Lexicon:
    """The package's lexicon, read once (about 0.1 s); it is never changed."""
    data = resources.files("fireside.text").joinpath("data/english.tsv.xz").read_bytes()
    lines = lzma.decompress(data).decode().split("\n")
    return Lexicon(dict(line.split("\t", 1) for line in lines))
