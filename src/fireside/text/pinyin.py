"""Pinyin syllables to phones: initial, final and tone, however the syllable is spelled."""

from __future__ import annotations

import unicodedata

from fireside.text.phones import FINALS, INITIALS, NEUTRAL_FINALS

_TONE_MARKS = {"\u0304": "1", "\u0301": "2", "\u030c": "3", "\u0306": "3", "\u0300": "4"}
_ZERO_INITIAL = {
    **{"yi": "i", "ya": "ia", "ye": "ie", "yao": "iao", "you": "iou", "yan": "ian", "yin": "in"},
    **{"yang": "iang", "ying": "ing", "yong": "iong", "yu": "v", "yue": "ve", "yuan": "van", "yun": "vn"},
    **{"yo": "iou", "yai": "iai"},
    **{"wu": "u", "wa": "ua", "wo": "uo", "wai": "uai", "wei": "uei", "wan": "uan", "wen": "uen"},
    **{"wang": "uang", "weng": "ong", "wong": "ong"},
    **{"ê": "ei", "m": "en", "n": "en", "ng": "en", "r": "er", "hm": "en", "hng": "en"},
}
_SHORT_FINALS = {"iu": "iou", "ui": "uei", "un": "uen", "ue": "ve", "ueng": "ong", "io": "iou"}
_AFTER_JQX = {"u": "v", "ue": "ve", "uan": "van", "un": "vn"}
_SIBILANTS = {"zh", "ch", "sh", "r", "z", "c", "s"}
_FINALS = frozenset(FINALS)
_BY_LENGTH = sorted(INITIALS, key=len, reverse=True)


def split_tone(syllable: str) -> tuple[str, str]:
    """`("hao", "3")` of `hao3` or `hǎo`; the tone is "" where none is written. ü is given as v."""
    plain, tone = "", ""
    for mark in unicodedata.normalize("NFD", syllable.strip().lower()):
        if mark in _TONE_MARKS:
            tone = _TONE_MARKS[mark]
        elif mark == "\u0308" and plain.endswith("u"):
            plain = plain[:-1] + "v"
        elif mark == "\u0302" and plain.endswith("e"):
            plain = plain[:-1] + "ê"
        else:
            plain += mark
    if plain[-1:] in ("0", "1", "2", "3", "4", "5"):
        plain, tone = plain[:-1], "5" if plain[-1] == "0" else plain[-1]
    return plain.replace("u:", "v"), tone


def toned(final: str, tone: str) -> str:
    """The phone of a final with its tone; a neutral tone that has no phone becomes a fourth (er: a
    second)."""
    if tone == "5" and final not in NEUTRAL_FINALS:
        tone = "2" if final == "er" else "4"
    return final + tone


def syllable_phones(syllable: str) -> tuple[str, ...] | None:
    """Phones of one written syllable (`zhong4`, `zhòng`, `nü3`, `lve4`), neutral without a tone.

    Returns None for what is no syllable of Mandarin. An initial without a vowel is none either.
    """
    plain, tone = split_tone(syllable)
    tone = tone or "5"
    if plain in _ZERO_INITIAL:
        final = _ZERO_INITIAL[plain]
        return (toned(final, tone),) if final in _FINALS else None
    for initial in _BY_LENGTH:
        if plain.startswith(initial) and len(plain) > len(initial):
            final = plain[len(initial) :]
            if initial in ("j", "q", "x"):
                final = _AFTER_JQX.get(final, final)
            elif initial in _SIBILANTS and final == "i":
                final = "ii"
            final = _SHORT_FINALS.get(final, final)
            return (initial, toned(final, tone)) if final in _FINALS else None
    return (toned(plain, tone),) if plain in _FINALS and plain != "ii" else None
