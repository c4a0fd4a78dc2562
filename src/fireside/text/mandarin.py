"""Mandarin characters to phones: words by a frequency lexicon, readings by word, tone sandhi."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from fireside.text.pinyin import split_tone, syllable_phones
from fireside.text.sandhi import Syllable, apply_sandhi

_UNKNOWN = 40.0  # cost of a character that is in no word list, in quarter bits
_MAX_WORD = 5

# A character alone is often read otherwise than in dictionaries' first place.
_ALONE: dict[str, str] = {
    **{"得": "de5", "长": "chang2", "教": "jiao1", "似": "si4", "铺": "pu1", "挣": "zheng4", "弹": "tan2"},
    **{"尽": "jin4", "还": "hai2", "扒": "ba1", "数": "shu3", "〇": "ling2"},
}
_PRONOUNS = frozenset(
    {
        "我",
        "你",
        "您",
        "他",
        "她",
        "它",
        "我们",
        "你们",
        "他们",
        "她们",
        "咱们",
        "大家",
        "总",
        "就",
        "都",
        "还",
        "可",
    }
)
_COUNTS = frozenset("零一二两三四五六七八九十百千万亿几半多数每")
_AFTER_NUMBER: dict[str, str] = {
    "只": "zhi1",
    "种": "zhong3",
    "分": "fen1",
    "间": "jian1",
    "发": "fa1",
    "行": "hang2",
}


@dataclass(frozen=True)
class Reading:
    """One character with the phones it is spoken with; `word_end`: a word ends here."""

    char: str
    phones: tuple[str, ...]
    word_end: bool


class MandarinLexicon:
    """Words with costs and readings; read-only. Costs are in quarter bits."""

    def __init__(self, text: str) -> None:
        chars, variants, words = text.split("\n\n")
        self._single: dict[str, str] = {}
        for line in chars.split("\n"):
            syllable, members = line.split(" ")
            self._single.update(dict.fromkeys(members, syllable))
        traditional, simple = variants.split("\n")
        self._simple = str.maketrans(traditional, simple)
        total, *lines = words.split("\n")
        self._log_total = float(total)
        self._words = dict(line.split(" ", 1) for line in lines)

    def simplified(self, text: str) -> str:
        """Traditional characters replaced one by one."""
        return text.translate(self._simple)

    def reading(self, word: str) -> list[str]:
        """Toned syllables of a word; characters nobody knows are left out."""
        _, _, special = self._words.get(word, "").partition(" ")
        if special:
            return special.split(" ")
        return [self._single[c] for c in word if c in self._single]

    def knows(self, char: str) -> bool:
        """Whether a character has a reading."""
        return char in self._single

    def segment(self, text: str) -> list[str]:
        """The likeliest words of a text by their frequencies (unigram model, Viterbi)."""
        n = len(text)
        best = [0.0] * (n + 1)
        back = [0] * (n + 1)
        for end in range(1, n + 1):
            best[end] = float("inf")
            for start in range(max(0, end - _MAX_WORD), end):
                fields = self._words.get(text[start:end])
                if fields is not None:
                    cost = self._log_total - int(fields.partition(" ")[0])
                elif end - start == 1:
                    cost = self._log_total + _UNKNOWN
                else:
                    continue
                if best[start] + cost < best[end]:
                    best[end], back[end] = best[start] + cost, start
        words = []
        while n:
            words.append(text[back[n] : n])
            n = back[n]
        return words[::-1]


@lru_cache(maxsize=1)
def mandarin_lexicon() -> MandarinLexicon:
    """The package's word list, read once; it is never changed."""
    data = resources.files("fireside.text").joinpath("data/mandarin.txt.xz").read_bytes()
    return MandarinLexicon(lzma.decompress(data).decode())


def _in_context(word: str, before: str, after: str) -> str | None:
    """The reading of a character that stands alone, where its neighbours decide."""
    if word == "地" and len(before) >= 2 and after:
        return "de5"
    if word == "得" and after and (not before or before in _PRONOUNS):
        return "dei3"
    if word in _AFTER_NUMBER and before and before[-1] in _COUNTS:
        return _AFTER_NUMBER[word]
    return _ALONE.get(word)


def read(text: str) -> list[Reading]:
    """Readings of a stretch of Chinese characters (nothing else in it) as one phrase, sandhi applied."""
    lexicon = mandarin_lexicon()
    simple = lexicon.simplified(text)
    words = lexicon.segment(simple)
    syllables: list[Syllable] = []
    for i, word in enumerate(words):
        before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        special = _in_context(word, before, after) if len(word) == 1 else None
        read_as = [special] if special else lexicon.reading(word)
        if len(word) == 2 and word[0] in _COUNTS and word[1] == "只":
            read_as = [read_as[0], _AFTER_NUMBER["只"]]
        known = [c for c in word if lexicon.knows(c)]
        for j, (char, syllable) in enumerate(zip(known, read_as, strict=False)):
            base, tone = split_tone(syllable)
            syllables.append(Syllable(char, base, tone, word_end=j == len(known) - 1))
    out = []
    for spoken in apply_sandhi(syllables):
        phones = syllable_phones(spoken.base + spoken.tone)
        if phones:
            out.append(Reading(spoken.char, phones, spoken.word_end))
    return out
