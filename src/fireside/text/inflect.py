"""English word endings by rule: pronunciations of plurals, possessives, -ed and -ing forms and compounds."""

from __future__ import annotations

from collections.abc import Callable

from fireside.text.lexicon import Phones

Lookup = Callable[[str], Phones | None]

_SIBILANT = frozenset({"S", "Z", "SH", "ZH", "CH", "JH"})
_VOICELESS = frozenset({"P", "T", "K", "F", "TH"})
_VOWEL_LETTERS = frozenset("aeiou")
_CONTRACTIONS: dict[str, Phones] = {
    "'ll": ("AH0", "L"),
    "'ve": ("AH0", "V"),
    "'re": ("ER0",),
    "'d": ("D",),
    "'m": ("M",),
}
_SUFFIXES: dict[str, Phones] = {
    "less": ("L", "AH0", "S"),
    "ness": ("N", "AH0", "S"),
    "ful": ("F", "AH0", "L"),
    "ly": ("L", "IY0"),
    "ment": ("M", "AH0", "N", "T"),
    "ish": ("IH0", "SH"),
    "er": ("ER0",),
    "ers": ("ER0", "Z"),
    "able": ("AH0", "B", "AH0", "L"),
    "ship": ("SH", "IH2", "P"),
    "like": ("L", "AY2", "K"),
    "wise": ("W", "AY2", "Z"),
    "in'": ("IH0", "N"),
}
_PREFIXES: dict[str, Phones] = {
    "un": ("AH0", "N"),
    "re": ("R", "IY0"),
    "non": ("N", "AA0", "N"),
    "anti": ("AE2", "N", "T", "IY0"),
    "pre": ("P", "R", "IY0"),
    "over": ("OW2", "V", "ER0"),
    "under": ("AH2", "N", "D", "ER0"),
    "super": ("S", "UW2", "P", "ER0"),
    "mis": ("M", "IH0", "S"),
    "micro": ("M", "AY2", "K", "R", "OW0"),
    "multi": ("M", "AH2", "L", "T", "IY0"),
    "mini": ("M", "IH2", "N", "IY0"),
    "co": ("K", "OW0"),
}


def plural(stem: Phones) -> Phones:
    """The stem with -s or 's."""
    if stem[-1] in _SIBILANT:
        return (*stem, "IH0", "Z")
    return (*stem, "S" if stem[-1] in _VOICELESS else "Z")


def past(stem: Phones) -> Phones:
    """The stem with -ed."""
    if stem[-1] in ("T", "D"):
        return (*stem, "IH0", "D")
    return (*stem, "T" if stem[-1] in _VOICELESS or stem[-1] in ("S", "SH", "CH") else "D")


def _stems(word: str, ending: str) -> list[str]:
    """Dictionary forms that may stand before an ending: as it is, with e, with one of a doubled letter, y
    for i."""
    base = word[: -len(ending)]
    stems = [base, base + "e"]
    if len(base) > 2 and base[-1] == base[-2] and base[-1] not in _VOWEL_LETTERS:
        stems.append(base[:-1])
    if base.endswith("i"):
        stems.append(base[:-1] + "y")
    if base.endswith("ck"):
        stems.append(base[:-1])
    return [stem for stem in stems if len(stem) > 1]


def _first(stems: list[str], lookup: Lookup) -> Phones | None:
    for stem in stems:
        if phones := lookup(stem):
            return phones
    return None


def inflected(word: str, lookup: Lookup) -> Phones | None:
    """Phones of a word that is a known word with a regular ending or beginning, else None. `word` is lower
    case."""
    if word.endswith("'s") and (stem := lookup(word[:-2])):
        return plural(stem)
    if word.endswith("s'") and (stem := lookup(word[:-1])):
        return stem
    for ending, phones in _CONTRACTIONS.items():
        if word.endswith(ending) and (stem := lookup(word[: -len(ending)])):
            schwa = ending == "'d" and stem[-1] in ("T", "D")
            return (*stem, *(("AH0",) if schwa else ()), *phones)
    if word.endswith("n't") and (stem := lookup(word[:-3])):
        return (*stem, "AH0", "N", "T")
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        stems = [word[:-1]]
        if word.endswith("es"):
            stems.append(word[:-2])
        if word.endswith("ies"):
            stems.append(word[:-3] + "y")
        if stem := _first(stems, lookup):
            return plural(stem)
    if len(word) > 4 and word.endswith("ed") and (stem := _first(_stems(word, "ed"), lookup)):
        return past(stem)
    if len(word) > 5 and word.endswith("ing") and (stem := _first(_stems(word, "ing"), lookup)):
        return (*stem, "IH0", "NG")
    for ending, phones in _SUFFIXES.items():
        if len(word) >= len(ending) + 3 and word.endswith(ending):
            stem = _first(_stems(word, ending), lookup)
            if stem:
                return (*stem, *phones)
    for beginning, phones in _PREFIXES.items():
        if len(word) >= len(beginning) + 4 and word.startswith(beginning):
            stem = lookup(word[len(beginning) :])
            if stem:
                return (*phones, *stem)
    return None


def compound(word: str, lookup: Lookup) -> Phones | None:
    """Phones of two known words written as one (`roominghouse`), the longer first part preferred, else None.

    Parts have four letters or more, so that names are not cut into chance pieces; the second part's main
    stress becomes a secondary one.
    """
    for cut in range(len(word) - 4, 3, -1):
        first = lookup(word[:cut])
        second = first and lookup(word[cut:])
        if first and second:
            return (*first, *(phone.replace("1", "2") for phone in second))
    return None
