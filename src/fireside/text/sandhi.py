"""Tone sandhi of Mandarin: third tones, 一 and 不, over words whose dictionary tones are known.

Rules from Duanmu, The Phonology of Standard Chinese (2007), ch. 11, and Chao's grammar, without syntax: a
third tone before a third tone rises within a word, and across words where one of the two is a single
syllable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_NUMERALS = frozenset("零〇一二三四五六七八九十百千万亿两点几")
_COUNTED_PLAIN = frozenset("月号日")


@dataclass(frozen=True)
class Syllable:
    """One character's reading: pinyin without tone, the tone, and whether its word or its phrase ends after
    it."""

    char: str
    base: str
    tone: str
    word_end: bool
    pause: bool = False


def _bu(before: Syllable | None, after: Syllable | None, own: Syllable) -> str:
    if after is None:
        return "4"
    if before is not None and before.char == after.char and not before.pause:
        return "5"
    return "2" if after.tone == "4" else "4"


def _yi(before: Syllable | None, after: Syllable | None, own: Syllable) -> str:
    first_of_word = before is None or before.word_end
    if after is None or (own.word_end and not first_of_word):
        return "1"
    if before is not None and before.char in _NUMERALS | {"第", "初"} and not before.pause:
        return "1"
    if (after.char in _NUMERALS and after.char not in "千百万亿两几") or after.char in _COUNTED_PLAIN:
        return "1"
    if before is not None and before.char == after.char and not before.pause:
        return "5"
    return "2" if after.tone == "4" or after.char == "个" else "4"


def _third(syllables: list[Syllable]) -> list[Syllable]:
    """Third tones become second before a third tone: first inside words, then across their borders."""
    out = list(syllables)
    start = 0
    starts: list[int] = []
    for i, syllable in enumerate(out):
        starts.append(start)
        if syllable.word_end:
            start = i + 1
    for i in range(len(out) - 1):
        if not out[i].word_end and out[i].tone == out[i + 1].tone == "3" and not out[i].pause:
            out[i] = replace(out[i], tone="2")
    for i in range(len(out) - 1):
        if out[i].word_end and not out[i].pause and out[i].tone == out[i + 1].tone == "3":
            single_before = starts[i] == i
            single_after = out[i + 1].word_end
            if single_before or single_after:
                out[i] = replace(out[i], tone="2")
    return out


def apply_sandhi(syllables: list[Syllable]) -> list[Syllable]:
    """The syllables of one stretch of Mandarin with the tones as they are spoken; the input is left as it
    is."""
    out = list(syllables)
    for i, own in enumerate(syllables):
        if own.char not in ("一", "不") or own.base not in ("yi", "bu"):
            continue
        before = out[i - 1] if i else None
        after = syllables[i + 1] if i + 1 < len(syllables) and not own.pause else None
        tone = (_yi if own.char == "一" else _bu)(before, after, own)
        out[i] = replace(own, tone=tone)
    return _third(out)
