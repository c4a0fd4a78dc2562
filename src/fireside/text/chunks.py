"""Which stretches of a sentence are read in which language; numbers and symbols go with their neighbours."""

from __future__ import annotations

import re

from fireside.text.clean import is_han
from fireside.text.units import CURRENCIES, CURRENCY_CODES, UNITS

_UNIT_LETTERS = sorted(
    set(UNITS)
    | {
        "st",
        "nd",
        "rd",
        "th",
        "am",
        "pm",
        "AM",
        "PM",
        "a.m.",
        "p.m.",
        "million",
        "billion",
        "trillion",
        "thousand",
    }
    | {"k", "K", "M", "bn"}
    | set(CURRENCY_CODES),
    key=len,
    reverse=True,
)
_BEFORE = "|".join(re.escape(c) for c in sorted([*CURRENCIES, *CURRENCY_CODES], key=len, reverse=True))
_AFTER = "|".join(re.escape(u) for u in _UNIT_LETTERS)
_TOKEN = re.compile(
    r"(?P<url>[A-Za-z0-9._+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z][A-Za-z0-9-]*)+|\b(?:https?://|www\.)[^\s\u3400-\u9fff，。；、]+)"
    r"|(?P<han>[\u3400-\u4dbf\u4e00-\u9fff〇]+)"
    rf"|(?P<num>(?:(?<![A-Za-z])(?:{_BEFORE}|[Nn][Oo]\.)\s?)?(?:(?<![A-Za-z])[-+±~#№<>=≤≥≈$£€¥₹₩₽₿฿])*\.?\d"
    r"(?:[\d.,:/%‰+×÷*=<>^~–—²³⁰¹⁴⁵⁶⁷⁸⁹⁻-]|\s(?=[-+×÷=<>]\s?\d)|(?<=[-+×÷=<>])\s(?=\d))*(?<![.,:/–—~-])"
    rf"(?:\s?(?:{_AFTER})(?![A-Za-z]))?)"
    r"|(?P<latin>[A-Za-z](?:[A-Za-z'@_]|[.&/-](?=[A-Za-z]))*)"
    r"|(?P<symbol>[&+=@%°√π±×÷≈≠≤≥<>∞α-ωΑ-Ω§©№→~/-])"
    r"|(?P<stop>[,，。.;；:：?？!！、\n()（）])"
    r"|(?P<other>.)",
    re.S,
)
_CONTEXT = {"han": "zh", "latin": "en", "url": "en"}
_SHORT_CAPITALS = re.compile(r"[A-Z]{1,4}")
_ENGLISH_CLAUSE = 3
"""A clause without Chinese characters but with this many English words is English, whatever is around it."""


def _neighbour(tokens: list[tuple[str, str]], i: int, step: int) -> str:
    """The language of the next written word in a direction, "" if a pause comes first.

    Short capitals that touch the number ("5G", "A4") are part of it: the word beyond them decides.
    """
    touching, language = True, ""
    i += step
    while 0 <= i < len(tokens):
        kind, text = tokens[i]
        if kind == "stop":
            return language
        if kind in _CONTEXT:
            language = _CONTEXT[kind]
            if not (touching and _SHORT_CAPITALS.fullmatch(text)):
                return language
        elif kind == "other":
            touching = False
        i += step
    return language


def _clause(tokens: list[tuple[str, str]], i: int) -> list[tuple[str, str]]:
    """The tokens between the pauses around token `i`."""
    first = last = i
    while first and tokens[first - 1][0] != "stop":
        first -= 1
    while last + 1 < len(tokens) and tokens[last + 1][0] != "stop":
        last += 1
    return tokens[first : last + 1]


def _language(tokens: list[tuple[str, str]], i: int, main: str) -> str:
    """The language a number or symbol is read in."""
    left, right = _neighbour(tokens, i, -1), _neighbour(tokens, i, +1)
    if left == right and left:
        return left
    clause = _clause(tokens, i)
    if any(kind == "han" for kind, _ in clause):
        if not (left and right) and main in (left, right):
            return main
        number = tokens[i][0] == "num"
        beside = {tokens[k][0] for k in (i - 1, i + 1) if 0 <= k < len(tokens)}
        return "zh" if number or "han" in beside or "en" not in (left, right) else "en"
    english = sum(kind == "latin" for kind, _ in clause) >= _ENGLISH_CLAUSE
    return "en" if english or main == "en" else "zh"


def main_language(text: str, otherwise: str = "en") -> str:
    """The language that numbers by themselves are read in: that of most words, else of the punctuation."""
    han = sum(is_han(c) for c in text)
    latin = len(re.findall(r"\b[A-Za-z]+", text))
    if han or re.search(r"[A-Za-z]{2}", text):
        return "zh" if han >= latin else "en"
    return "zh" if re.search(r"[，。、；：？！]", text) else otherwise


def split_languages(text: str, otherwise: str = "en") -> list[tuple[str, str]]:
    """`("en" | "zh", stretch)` in order; joined they are the text again.

    `otherwise`: the language of the whole text that a sentence without letters belongs to.
    """
    tokens = [(m.lastgroup or "other", m[0]) for m in _TOKEN.finditer(text)]
    main = main_language(text, otherwise)
    languages = [
        _CONTEXT.get(kind) or (_language(tokens, i, main) if kind in ("num", "symbol") else "")
        for i, (kind, _) in enumerate(tokens)
    ]
    for i, (kind, text) in enumerate(tokens[:-1]):
        # Letters in front of a number that is read in Mandarin ("C919") are left to the Mandarin rules.
        if kind == "latin" and _SHORT_CAPITALS.fullmatch(text) and tokens[i + 1][0] == "num":
            languages[i] = languages[i + 1]
    out: list[tuple[str, str]] = []
    for (_, piece), language in zip(tokens, languages, strict=True):
        if out and language in ("", out[-1][0]):
            out[-1] = (out[-1][0], out[-1][1] + piece)
        elif out and not out[-1][0]:
            out[-1] = (language, out[-1][1] + piece)
        else:
            out.append((language, piece))
    return [(language or main, piece) for language, piece in out]
