"""Tone sandhi of Mandarin: third tones, 一 and 不, over words whose dictionary tones are known.

Rules from Duanmu, The Phonology of Standard Chinese (2007), ch. 11, and Chao's grammar, without syntax: a
third tone before a third tone rises within a word, and across words where one of the two is a single
syllable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_DIGITS = frozenset("零〇一二三四五六七八九")
_NUMERALS = _DIGITS | frozenset("十百千万亿两几")
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


def _bu(before: Syllable | None, after: Syllable | None) -> str:
    if after is None:
        return "4"
    if before is not None and before.char == after.char:
        return "5"
    return "2" if after.tone == "4" else "4"


def _yi(own: Syllable, before: Syllable | None, after: Syllable | None, later: Syllable | None) -> str:
    first_of_word = before is None or before.word_end
    if after is None or (own.word_end and not first_of_word):
        return "1"
    if before is not None and before.char in _NUMERALS | {"第", "初"}:
        return "1"
    decimal = before is not None and before.char == "点" and after.char in _DIGITS
    decimal = decimal or (after.char == "点" and later is not None and later.char in _DIGITS)
    if decimal or after.char in _DIGITS or after.char == "十" or after.char in _COUNTED_PLAIN:
        return "1"
    if before is not None and before.char == after.char:
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
        before = out[i - 1] if i and not out[i - 1].pause else None
        after, later = ([*syllables[i + 1 : i + 3], None, None][:2]) if not own.pause else (None, None)
        tone = _yi(own, before, after, later) if own.char == "一" else _bu(before, after)
        out[i] = replace(own, tone=tone)
    return _third(out)
