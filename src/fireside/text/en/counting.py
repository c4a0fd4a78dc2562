"""Plain numbers: what they name, fractions, ranges, powers, arithmetic, years."""

from __future__ import annotations

import re

from fireside.text.abbreviations_en import BEFORE_NUMBER, MONTHS, STATES
from fireside.text.en.patterns import INT, NUM
from fireside.text.numbers_en import cardinal, decimal, digits, fraction, grouped, ordinal, year
from fireside.text.rule import Match, Rule, alternatives, template
from fireside.text.word_set import word_set

_QUANTITY_BEFORE = re.compile(
    r"\b(?:about|over|nearly|than|least|most|approximately|around|almost|some|exactly|only|just|to|of|has|have|had)\s+$",
    re.I,
)
_YEAR_BEFORE = re.compile(
    r"\b(?:in|since|by|from|until|till|of|year|before|after|during|circa|early|late|mid|through|between|and|to|"
    r"spring|summer|autumn|fall|winter|class|copyright|©|" + "|".join(MONTHS) + r"),?\s+$",
    re.I,
)
_NOT_PLURALS = word_set(
    "is was has as its this us his census ends begins starts sees thus does begins marks brings seems lies"
)
_COUNTED = word_set("people men women children percent dollars times miles feet words more thousand")


def _followed_by_count(rest: str) -> bool:
    word = re.match(r"\s+([A-Za-z]+)", rest)
    if not word:
        return False
    noun = word[1].lower()
    if word[1][0].isupper():
        return False  # the 2020 Olympics
    return noun in _COUNTED or (noun.endswith("s") and not noun.endswith("ss") and noun not in _NOT_PLURALS)


def _integer(m: Match) -> str:
    text = m["n"]
    if "," not in text and len(text) == 4 and (1000 < int(text) <= 2099):
        before, after = m.string[: m.start()], m.string[m.end() :]
        likely = int(text) >= 1100 or _YEAR_BEFORE.search(before)
        if (
            likely
            and not _followed_by_count(after)
            and not (_QUANTITY_BEFORE.search(before) and not _YEAR_BEFORE.search(before))
        ):
            return f" {year(text)} "
    if "," not in text and len(text) >= 10:
        return f" {digits(text)} "
    return f" {cardinal(text)} "


def _range(m: Match) -> str:
    first, last = m["a"], m["b"]
    if re.fullmatch(r"1\d{3}|20\d\d", first) and re.fullmatch(r"\d\d(?:\d\d)?", last) and "," not in m[0]:
        end = year(last) if len(last) == 4 else cardinal(int(last)) if int(last) > 9 else f"oh {cardinal(int(last))}"
        return f"{year(first)} to {end}"
    return f"{decimal(first.replace(',', ''))} to {decimal(last.replace(',', ''))}"


def _mixed_fraction(m: Match) -> str:
    part = fraction(m["n"], m["d"]) if int(m["d"]) else ""
    if m["n"] == "1" and int(m["d"]) > 1:
        part = {"2": "a half", "4": "a quarter"}.get(m["d"], part)
    return f"{cardinal(m['w'])} and {part}"


def _fraction(m: Match) -> str:
    n, d = m["n"], m["d"]
    after = m.string[m.end() :]
    if n == d == "50":
        return "fifty fifty"
    if d == "10" and int(n) <= 10 and not after.startswith(" of"):
        return f"{cardinal(n)} out of ten"
    if int(d) == 0 or len(d) > 4:
        return f"{cardinal(n)} slash {cardinal(d)}"
    if (n, d) == ("1", "2"):
        if re.match(r"\s(?:cup|hour|mile|inch|pound|teaspoon|tablespoon|dozen|ounce|day|price)\b", after):
            return "half an" if re.match(r"\s(?:hour|inch|ounce)", after) else "half a"
        return "half" if re.match(r" (?:of|the)\b", after) else "one half"
    return fraction(n, d)


_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def _power(m: Match) -> str:
    exponent = (m["sup"] or m["caret"]).translate(_SUPERSCRIPTS)
    if exponent == "2":
        return f"{m['base']} squared "
    if exponent == "3":
        return f"{m['base']} cubed "
    return f"{m['base']} to the power of {decimal(exponent)} "


def _named_number(m: Match) -> str:
    return f"{m['name']} {grouped(m['n'])}"


def _before_number(m: Match) -> str:
    return BEFORE_NUMBER[m["abbr"]] + " "


def _state(m: Match) -> str:
    tail = f" {digits(m['zip'])}" if m["zip"] else ""
    if not tail and m["state"] in _STATE_WORDS:
        return m[0]
    return f"{m['lead']}{STATES[m['state']]}{tail}"


_STATE_WORDS = frozenset({"OK", "IN", "OR", "ME", "HI", "MA", "PA", "ID", "AL", "LA"})


def rules() -> list[Rule]:
    """Patterns and what is said for them, in the order in which they must run."""
    return [
        # Names of things with numbers.
        (r"\b(?P<a>[A-Z]{1,3})&(?P<b>[A-Z]{1,3})\b", lambda m: f"{' '.join(m['a'])} and {' '.join(m['b'])}"),
        (r"\b([A-G])#", template(r"\1 sharp")),
        (r"#(?P<n>\d+)\b", lambda m: f"number {cardinal(m['n'])}"),
        (r"#(?=[A-Za-z])", template("hashtag ")),
        (
            rf"\b(?P<abbr>{alternatives(BEFORE_NUMBER)})\.\s?(?=\d|(?!I\b)[IVX]+\b)",
            _before_number,
        ),
        (r"(?<![\w.])(?P<abbr>v)(?=\d)", _before_number),
        (
            r"\b(?P<name>[Ff]light|Boeing|[Rr]oom|[Rr]oute|[Hh]ighway|Hwy\.?|Interstate|US|[Ss]uite|Airbus A)"
            r"[\s-]?(?P<n>\d{3,4})\b(?!,\d)",
            _named_number,
        ),
        (r"\b(?!AD\b|BC\b|CE\b)(?P<name>[A-Z]{2,})\s(?P<n>[1-9]\d{3})\b(?!,\d)", _named_number),
        (r"\b(?P<name>[A-Z])-?(?P<n>[1-9]\d{2})\b(?!,\d)", _named_number),
        # Numbers.
        (rf"(?<![\w.,])(?P<n>{INT})(?:st|nd|rd|th|ST|ND|RD|TH)\b", lambda m: ordinal(m["n"])),
        (r"(?P<lead>,\s)(?P<state>" + "|".join(STATES) + r")\b(?:\s(?P<zip>\d{5})\b)?", _state),
        (r"(?P<base>[A-Za-z0-9]+|\))(?:(?P<sup>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)|\^(?P<caret>-?\d+))", _power),
        (r"\b(?P<w>\d+)[ -](?P<n>\d{1,2})/(?P<d>\d{1,3})\b(?!/)", _mixed_fraction),
        (
            r"(?<![\w/.])(?P<n>\d+\.\d+)/(?P<d>\d+)\b",
            lambda m: f"{decimal(m['n'])} out of {cardinal(m['d'])}",
        ),
        (r"(?<![\w/.])(?P<n>\d{1,4})/(?P<d>\d{1,4})(?:ths?|rds?|nds?)?\b(?!/)", _fraction),
        (rf"(?<![\w.,-])(?P<a>{NUM})(?:\s?[–—~]\s?|-)(?P<b>{NUM})(?![\w-])", _range),
        (r"(?<![\w.])(?P<a>\d+):(?P<b>\d+)\b", lambda m: f"{cardinal(m['a'])} to {cardinal(m['b'])}"),
        (r"(?<=\d)\s?\*\s?(?=\d)|(?<=\d\s)\*(?=\s\d)", template(" times ")),
        (r"(?<=\d)\s?/\s(?=\d)", template(" divided by ")),
        (r"(?<=[\d)])\s[-–−]\s(?=[\d(])", template(" minus ")),
        (r"(?<![\w)])[-−](?=\.?\d)", template("minus ")),
        (r"(?<![\w)])~\s?(?=\d)", template("about ")),
        (r"(?<=\d)\+(?=\s|$|[.,;])", template(" plus")),
        (
            rf"(?<![\d.])(?:(?:{INT})?\.\d+|(?:\d{{1,3}}(?:,\d{{3}})+|\d+)\.\d+)",
            lambda m: f" {decimal(m[0].replace(',', ''))} ",
        ),
    ]


def integers() -> list[Rule]:
    """What is still a number when everything else has been read."""
    return [(rf"(?P<n>{INT})", _integer)]
