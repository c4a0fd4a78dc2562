"""The token inventory of hearth's text side: phones, pauses, the word boundary and rate marks.

The order is part of every trained model: ids are positions in `PHONES`, and nothing may be moved, only spare
places be given a name. English phones are ARPAbet as in the CMU dictionary (vowels carry the stress 0, 1, 2);
Mandarin phones are pinyin initials and finals in lower case, the tone (1-5, 5 = neutral) on the final.
"""

from __future__ import annotations

PAD = "_"
BOUNDARY = " "
PAUSES: tuple[str, ...] = (",", ".", "?", "!")
RATES: tuple[str, ...] = ("<slower>", "<slow>", "<normal>", "<fast>", "<faster>")

ARPABET_VOWELS: tuple[str, ...] = (
    *("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER"),
    *("EY", "IH", "IY", "OW", "OY", "UH", "UW"),
)
ARPABET_CONSONANTS: tuple[str, ...] = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N"),
    *("NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"),
)
INITIALS: tuple[str, ...] = (
    *("b", "p", "m", "f", "d", "t", "n", "l", "g", "k", "h"),
    *("j", "q", "x", "zh", "ch", "sh", "r", "z", "c", "s"),
)
# "ii" is the vowel of zi and zhi, "v" is ü; "ueng" is "ong" without an initial, as phonology has it.
FINALS: tuple[str, ...] = (
    *("a", "o", "e", "ai", "ei", "ao", "ou", "an", "en", "ang", "eng", "ong", "er"),
    *("i", "ia", "ie", "iao", "iou", "ian", "in", "iang", "ing", "iong", "ii"),
    *("u", "ua", "uo", "uai", "uei", "uan", "uen", "uang", "v", "ve", "van", "vn"),
)
TONES = "1234"
# Finals that dictionaries write with a neutral tone. For others a neutral tone is read as the nearest one
# that the corpus teaches (`pinyin.toned`): a token that no recording contains would be noise.
NEUTRAL_FINALS: tuple[str, ...] = ("a", "e", "ii", "en", "ou", "i", "ia", "u", "uo")

PHONES: tuple[str, ...] = (
    PAD,
    BOUNDARY,
    *PAUSES,
    *RATES,
    *(f"<spare{i}>" for i in range(16)),
    *ARPABET_CONSONANTS,
    *(vowel + stress for vowel in ARPABET_VOWELS for stress in "012"),
    *INITIALS,
    *(final + tone for final in FINALS for tone in TONES),
    *(final + "5" for final in NEUTRAL_FINALS),
)

PHONE_ID: dict[str, int] = {phone: i for i, phone in enumerate(PHONES)}
PAD_ID = PHONE_ID[PAD]
BOUNDARY_ID = PHONE_ID[BOUNDARY]
PAUSE_IDS: frozenset[int] = frozenset(PHONE_ID[p] for p in PAUSES)
FIRST_SPOKEN_ID = PHONE_ID[ARPABET_CONSONANTS[0]]
"""Ids from here on are sounds; those below are the pad, marks, pauses and the boundary."""


def is_spoken(token: int) -> bool:
    """Whether an id is a sound (not a pause, boundary, rate mark or spare)."""
    return FIRST_SPOKEN_ID <= token < len(PHONES)


def encode(phones: list[str] | tuple[str, ...]) -> tuple[int, ...]:
    """Ids of phone names; a `KeyError` names the first that is none."""
    return tuple(PHONE_ID[phone] for phone in phones)


def decode(tokens: list[int] | tuple[int, ...]) -> list[str]:
    """Names of phone ids."""
    return [PHONES[token] for token in tokens]
