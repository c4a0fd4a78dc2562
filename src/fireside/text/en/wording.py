"""Abbreviations, initials, Roman numerals, symbols: what is left when the numbers are read."""

from __future__ import annotations

import re

from fireside.text.abbreviations_en import DOTTED, NUMBERED_NOUNS, RULERS, SPOKEN_SYMBOLS, TITLES, UNIT_ONLY
from fireside.text.numbers_en import cardinal, ordinal, roman
from fireside.text.rule import Match, Rule, alternatives, template
from fireside.text.units import UNITS

_SAFE_ROMANS = [
    "XVIII",
    "XVII",
    "VIII",
    "XIII",
    "XVI",
    "XIV",
    "XIX",
    "III",
    "VII",
    "XII",
    "XXI",
    "XV",
    "IX",
    "VI",
    "IV",
    "II",
]
_BARE_UNITS = ["km/h", "km²", "mph", "kWh", "MHz", "GHz", "kHz", "km", "kg", "cm", "mm", "ml", "mg"]
_ROMAN_WORDS = frozenset({"MIX", "DI", "LI", "CV", "CD", "DC", "MD", "MC", "CC", "DM", "MM", "MI", "XL", "CIVIC"})


def _roman_after(m: Match) -> str:
    value = roman(m["roman"])
    word = m["word"].lower()
    if value is None:
        return m[0]
    if word in NUMBERED_NOUNS:
        return f"{m['word']} {cardinal(value)}"
    if word in RULERS and value < 40:
        return f"{m['word']} the {ordinal(value)}"
    if len(m["roman"]) > 1 and m["word"][0].isupper() and value < 40 and m["roman"] not in _ROMAN_WORDS:
        return f"{m['word']} {cardinal(value)}"
    return m[0]


def _doctor(m: Match) -> str:
    before, after = m.string[: m.start()], m.string[m.end() :]
    word = m["abbr"]
    name_after = re.match(r"\s+[A-Z]", after)
    name_before = re.search(r"[A-Z][\w']*\s+$|\b(?:\w+th|first|second|third)\s+$", before)
    road = {"Dr": "drive", "St": "street"}[word]
    title = {"Dr": "doctor", "St": "saint"}[word]
    lone = not name_after
    if name_before and (lone or re.search(r"\d+\s+(?:[NSEW]\.?\s+)?(?:[A-Z][\w']*\s+)+$", before)):
        ends = not after.strip() and m["dot"]
        return road + ("." if ends else "")
    return title if name_after or m["dot"] else m[0]


def _title(m: Match) -> str:
    return TITLES[m["abbr"]]


def _dotted(m: Match) -> str:
    abbr = m["abbr"]
    before, after = m.string[: m.start()], m.string[m.end() :]
    if abbr in UNIT_ONLY and not re.search(r"\d\s?$", before):
        return m[0]
    if abbr in ("in", "ed", "al", "min", "max", "Co", "temp", "mo", "mos", "Ct", "Pl", "Sq") and abbr == "in":
        return DOTTED[abbr] + ("." if not after.strip() else "")
    end = not after.strip() or (abbr in ("etc", "Jr", "Inc", "Ltd", "Co", "Corp") and re.match(r"\s+[A-Z]", after))
    # "Apple Inc. said" goes on; "cats, dogs, etc. They ..." ends.
    if abbr in ("Inc", "Ltd", "Co", "Corp", "Jr") and after.strip():
        end = None
    return DOTTED[abbr] + ("." if end else "")


def _initialism(m: Match) -> str:
    letters = re.findall(r"[A-Za-z]", m[0])
    if [letter.lower() for letter in letters] in (["a", "m"], ["p", "m"]):
        letters = [letter.upper() for letter in letters]
    after = m.string[m.end() :]
    end = "." if not after.strip() or (re.match(r"\s+[A-Z][a-z]+\s+[a-z]", after) and len(letters) > 2) else ""
    return " ".join(letters).upper() + end


_EITHER = frozenset(
    {
        ("he", "she"),
        ("she", "he"),
        ("his", "her"),
        ("him", "her"),
        ("yes", "no"),
        ("true", "false"),
        ("his", "hers"),
    }
    | {("s", "he"), ("on", "off"), ("input", "output"), ("pass", "fail"), ("black", "white"), ("win", "lose")}
)


def _slash(m: Match) -> str:
    pair = (m[1].lower(), m[2].lower())
    if len(m[1]) == len(m[2]) == 1:
        return f"{m[1]} {m[2]}"
    if pair == ("and", "or"):
        return "and or"
    if pair in _EITHER:
        return f"{m[1]} or {m[2]}"
    return f"{m[1]} slash {m[2]}"


def _letters_digits(m: Match) -> str:
    # Formulas and models: CO2, PS5.
    text = re.sub(r"\b([A-Z]{2,3})(?=\d)|(?<=\d)([A-Z]{2,3})(?=\d)", lambda found: " ".join(found[0]), m[0])
    return re.sub(r"(?<=[A-Za-z])[-]?(?=\d)|(?<=\d)[-]?(?=[A-Za-z])", " ", text)


def _symbol(m: Match) -> str:
    return f" {SPOKEN_SYMBOLS[m[0]]} "


def rules() -> list[Rule]:
    """Patterns and what is said for them, in the order in which they must run."""
    return [
        # Words.
        (r"\b(?P<word>[A-Za-z]+)\s(?P<roman>[IVXLC]+)\b(?!\.\w|'(?!s\b))", _roman_after),
        (rf"\b(?:{'|'.join(_SAFE_ROMANS)})\b(?!')", lambda m: cardinal(roman(m[0]) or 0)),
        (rf"\b(?P<unit>{'|'.join(_BARE_UNITS)})\b(?!/)", lambda m: UNITS[m["unit"]][1]),
        (r"\b(?P<abbr>Dr|St)(?P<dot>\.)?(?=\W|$)", _doctor),
        (rf"\b(?P<abbr>{'|'.join(TITLES)})\.(?=\s)", _title),
        (r"\b(?P<abbr>Mr|Mrs|Ms|Messrs)\b(?=\s[A-Z])", _title),
        (rf"\b(?P<abbr>{alternatives(DOTTED)})\.(?!\w)", _dotted),
        (r"\betc\b", template("et cetera")),
        (r"\bvs\b", template("versus")),
        (r"\b(?:[A-Za-z]\.\s?){2,}(?![A-Za-z]\w)|\b(?:[A-Za-z]\.){2,}", _initialism),
        (r"\b([A-Z])\.(?=\s[A-Z])", template(r"\1")),
        (r"\b([A-Za-z]+)/([A-Za-z]+)\b", _slash),
        (r"\bMt(?=\s[A-Z])", template("mount")),
        (r"(?<=[A-Za-z])&(?=[A-Za-z])", template(" and ")),
        (
            r"\b(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z0-9]+(?:-\d+)?\b|\b[A-Za-z]+-\d+\b|\b\d+-[A-Za-z]",
            _letters_digits,
        ),
        (r"[" + re.escape("".join(SPOKEN_SYMBOLS)) + r"]", _symbol),
        (r"(?<=\w)/(?=\w)", template(" slash ")),
    ]
