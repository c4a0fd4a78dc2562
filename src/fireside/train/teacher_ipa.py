"""What the corpus' teacher was asked to say: its IPA as ARPAbet and pinyin phones, aligned with the text.

The corpus carries, beside each text, the IPA that its speech was made from: espeak-ng's for English, misaki's
for Mandarin, with arrows for tones. Labels of the training data follow it where it differs from our
dictionaries: what was spoken is what the recording teaches. Costs are in units of one wrong consonant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from fireside.text.phones import ARPABET_VOWELS, FINALS, INITIALS

Phones = tuple[str, ...]
WILDCARD = "<spare0>"
"""Stands for any phone, in words that no dictionary has."""

_GAP = 0.7
_VOWELS = {
    **{"aɪ": "AY", "aʊ": "AW", "eɪ": "EY", "oʊ": "OW", "ɔɪ": "OY", "iː": "IY", "uː": "UW", "ɑː": "AA"},
    **{"ɔː": "AO", "ɜː": "ER", "oː": "AO", "aː": "AA", "ɚ": "ER", "ɐ": "AH", "ə": "AH", "ᵻ": "IH", "ɪ": "IH"},
    **{"i": "IY", "ʌ": "AH", "ɛ": "EH", "æ": "AE", "ʊ": "UH", "ɔ": "AO", "ɑ": "AA", "u": "UW", "o": "OW"},
    **{"a": "AA", "e": "EH"},
}
_CONSONANTS = {
    **{symbol: symbol.upper() for symbol in "bdfklmnpstvwz"},
    **{"tʃ": "CH", "dʒ": "JH", "ɾ": "T", "ʔ": "T", "r": "R", "ɹ": "R", "ð": "DH", "θ": "TH", "ŋ": "NG"},
    **{"ɡ": "G", "h": "HH", "j": "Y", "ʃ": "SH", "ʒ": "ZH", "x": "K"},
}
_STRESS = {"ˈ": "1", "ˌ": "2"}
_REDUCED = frozenset({"AH", "IH", "ER", "UH", "EH", "IY", "AE", "AA", "AO", "OW"})
_WEAK = _REDUCED | {"UW"}
_NEAR_VOWELS = "AA/AO AH/UH AH/AA AH/AO AO/OW IY/IH UW/UH EH/AE EH/EY ER/AH UW/AH"
_NEAR_CONSONANTS = "T/D S/Z DH/TH W/HH N/NG SH/ZH CH/SH JH/ZH CH/T"
_NEAR = frozenset(frozenset(pair.split("/")) for pair in f"{_NEAR_VOWELS} {_NEAR_CONSONANTS}".split())

_INITIAL_IPA = {
    **{"b": "p", "p": "pʰ", "m": "m", "f": "f", "d": "t", "t": "tʰ", "n": "n", "l": "l", "g": "k", "k": "kʰ"},
    **{"h": "x", "j": "ʨ", "q": "ʨʰ", "x": "ɕ", "zh": "ꭧ", "ch": "ꭧʰ", "sh": "ʂ", "r": "ɻ", "z": "ʦ"},
    **{"c": "ʦʰ", "s": "s", "": ""},
}
# "0" is where the tone stands.
_FINAL_IPA = {
    **{"a": "a0", "o": "wo0", "e": "ɤ0", "ai": "ai0", "ei": "ei0", "ao": "au0", "ou": "ou0", "an": "a0n"},
    **{
        "en": "ə0n",
        "ang": "a0ŋ",
        "eng": "ə0ŋ",
        "ong": "ʊ0ŋ",
        "er": "ɚ0",
        "i": "i0",
        "ia": "ja0",
        "ie": "je0",
    },
    **{
        "iao": "jau0",
        "iou": "jou0",
        "ian": "jɛ0n",
        "in": "i0n",
        "iang": "ja0ŋ",
        "ing": "i0ŋ",
        "iong": "jʊ0ŋ",
    },
    **{"ii": "ɨ0", "u": "u0", "ua": "wa0", "uo": "wo0", "uai": "wai0", "uei": "wei0", "uan": "wa0n"},
    **{"uen": "wə0n", "uang": "wa0ŋ", "v": "y0", "ve": "ɥe0", "van": "ɥɛ0n", "vn": "y0n"},
}
_TONE_IPA = {"1": "→", "2": "↗", "3": "↓", "4": "↘", "5": ""}
_TONED = re.compile("[→↗↓↘ʨʂꭧɕɤɻ]")
_PARTICLE = re.compile(r"ma|pa|ʦɨ|mən|la|ja|a")
Syllable = tuple[str, str, str]
"""Initial ("" if none), final, tone."""


def arpabet(ipa: str) -> Phones:
    """ARPAbet phones of espeak's IPA; symbols without a phone are passed over."""
    phones: list[str] = []
    stress, i = "0", 0
    while i < len(ipa):
        size = 2 if ipa[i : i + 2] in _VOWELS or ipa[i : i + 2] in _CONSONANTS else 1
        symbol = ipa[i : i + size]
        if symbol in _STRESS:
            stress = _STRESS[symbol]
        elif symbol in _VOWELS:
            phones.append(_VOWELS[symbol] + stress)
            stress = "0"
        elif symbol in _CONSONANTS and not (_CONSONANTS[symbol] == "R" and phones[-1:] == ["R"]):
            phones.append(_CONSONANTS[symbol])
        i += size
    return tuple(phones)


@cache
def difference(a: str, b: str) -> float:
    """How unlike two ARPAbet phones are: 0 the same, under 0.5 easily confused or reduced."""
    if a == b:
        return 0.0
    plain_a, plain_b = a.rstrip("012"), b.rstrip("012")
    if plain_a == plain_b:
        return 0.1
    vowels = (plain_a in ARPABET_VOWELS) + (plain_b in ARPABET_VOWELS)
    near = frozenset((plain_a, plain_b)) in _NEAR
    if vowels == 2:
        reduced = any(p[-1] == "0" and p[:-1] in _REDUCED for p in (a, b))
        if reduced and {plain_a, plain_b} <= _WEAK:
            return 0.25
        return 0.3 if near else 0.8
    if vowels == 1:
        return 1.6
    return 0.4 if near else 1.0


def distance(a: Sequence[str], b: Sequence[str]) -> float:
    """Edit distance of two phone strings over the length of the longer."""
    row = [j * _GAP for j in range(len(b) + 1)]
    for i, x in enumerate(a, 1):
        new = [i * _GAP]
        for j, y in enumerate(b, 1):
            new.append(min(row[j - 1] + difference(x, y), row[j] + _GAP, new[-1] + _GAP))
        row = new
    return row[-1] / max(len(a), len(b), 1)


def segment(words: Sequence[Phones], spoken: Phones) -> list[Phones]:
    """Cut what was spoken into one stretch per word, by the cheapest alignment with the words' own phones."""
    sounds = [(i, phone) for i, word in enumerate(words) for phone in word]
    rows, columns = len(sounds), len(spoken)
    cost = [[j * _GAP for j in range(columns + 1)]]
    back = [[2] * (columns + 1)]
    for i, (_, phone) in enumerate(sounds, 1):
        wild = phone == WILDCARD
        above, here, moves = cost[-1], [i * _GAP], [1]
        for j in range(1, columns + 1):
            both = above[j - 1] + (0.5 if wild else difference(phone, spoken[j - 1]))
            only_word = above[j] + _GAP
            only_spoken = here[j - 1] + (0.3 if wild else _GAP)
            best = min(both, only_word, only_spoken)
            here.append(best)
            moves.append(0 if both == best else 1 if only_word == best else 2)
        cost.append(here)
        back.append(moves)
    # From the end backwards: a phone that only the teacher has belongs to the word that it follows.
    pairs: list[tuple[int | None, int | None]] = []
    i, j = rows, columns
    while i or j:
        move = back[i][j]
        pairs.append((i - 1 if move < 2 else None, j - 1 if move != 1 else None))
        i, j = i - (move < 2), j - (move != 1)
    out: list[list[str]] = [[] for _ in words]
    word = 0
    for sound, heard in reversed(pairs):
        if sound is not None:
            word = sounds[sound][0]
        if heard is not None:
            out[word].append(spoken[heard])
    return [tuple(phones) for phones in out]


@cache
def _by_ipa() -> dict[str, list[Syllable]]:
    """Every syllable that could be written, by its IPA."""
    table: dict[str, list[Syllable]] = {}
    for initial in ("", *INITIALS):
        for final in FINALS:
            if final in ("o", "uo") and (initial in ("b", "p", "m", "f")) != (final == "o"):
                continue  # one IPA for two spellings: bo, but guo
            ipa = _INITIAL_IPA[initial] + _FINAL_IPA[final]
            if final == "ong" and not initial:
                ipa = "wə0ŋ"
            for tone, mark in _TONE_IPA.items():
                table.setdefault(ipa.replace("0", mark), []).append((initial, final, tone))
    for tone, mark in _TONE_IPA.items():
        table.setdefault("ɔ" + mark, []).append(("", "o", tone))
    return table


def is_mandarin(word: str) -> bool:
    """Whether a word of the teacher's IPA is Mandarin, in a text of both languages."""
    return bool(_TONED.search(word) or _PARTICLE.fullmatch(re.sub(r"\W", "", word)))


def syllables(expected: Sequence[Syllable], ipa: str) -> list[tuple[Syllable, bool]] | None:
    """The syllable spoken for each character and whether a word ends after it; None if the IPA does not fit.

    expected: the dictionaries' syllables, which decide where the IPA could be read in two ways.
    """
    table = _by_ipa()
    longest = max(map(len, table))
    # states[i]: position in the IPA -> (cost, position before, syllable i - 1)
    states: list[dict[int, tuple[float, int, Syllable]]] = [{0: (0.0, 0, ("", "", ""))}]
    for own in expected:
        found: dict[int, tuple[float, int, Syllable]] = {}
        for place, (cost, _, _) in states[-1].items():
            start = place
            while ipa[start : start + 1] == " ":
                start += 1
            for end in range(start + 1, min(len(ipa), start + longest) + 1):
                for syllable in table.get(ipa[start:end], ()):
                    total = cost + (0.0 if syllable == own else 0.1 if syllable[:2] == own[:2] else 1.0)
                    if total < found.get(end, (float("inf"),))[0]:
                        found[end] = (total, place, syllable)
        states.append(found)
    ends = [end for end in states[-1] if not ipa[end:].strip()]
    if not ends:
        return None
    end = min(ends, key=lambda end: states[-1][end][0])
    out: list[tuple[Syllable, bool]] = []
    for state in reversed(states[1:]):
        _, before, syllable = state[end]
        out.append((syllable, ipa[end : end + 1] in ("", " ")))
        end = before
    return out[::-1]
