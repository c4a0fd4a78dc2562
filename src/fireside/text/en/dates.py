"""Dates, decades and times of day."""

from __future__ import annotations

import re

from fireside.text.abbreviations_en import MONTH_SHORT, MONTHS, WEEKDAY_SHORT
from fireside.text.en.patterns import DASH
from fireside.text.numbers_en import cardinal, ordinal, plural, year
from fireside.text.rule import Match, Rule, alternatives, template

_MONTH = "|".join([*MONTHS, *(rf"{short}\b\.?" for short in sorted(MONTH_SHORT, key=len, reverse=True))])
_NAMES = {**MONTH_SHORT, **WEEKDAY_SHORT}
_BOOKS = (
    "Genesis|Exodus|Psalms?|Proverbs|Isaiah|Jeremiah|Matthew|Mark|Luke|John|Acts|Romans|Corinthians|Galatians|"
    "Ephesians|Philippians|Hebrews|James|Peter|Revelation|Samuel|Kings|Chronicles|Job|Daniel"
)


def _month(name: str) -> str:
    name = name.rstrip(".")
    return MONTH_SHORT.get(name, name)


def _date(day: str, month: str, year_text: str | None, day_first: bool = False) -> str:
    spoken = f"the {ordinal(int(day))} of {month}" if day_first else f"{month} {ordinal(int(day))}"
    return spoken + (f", {year(year_text)}" if year_text else "")


def _month_day(m: Match) -> str:
    if int(m["day"]) > 31:
        return m[0]
    spoken = _date(m["day"], _month(m["month"]), m["year"])
    if m["until"]:
        spoken = f"{_month(m['month'])} {ordinal(m['day'])} to {ordinal(m['until'])}"
        spoken += f", {year(m['year'])}" if m["year"] else ""
    return spoken


def _day_month(m: Match) -> str:
    if int(m["day"]) > 31:
        return m[0]
    article = bool(re.search(r"\bthe\s+$", m.string[: m.start()]))
    spoken = _date(m["day"], _month(m["month"]), m["year"], day_first=True)
    return spoken.removeprefix("the ") if article else spoken


def _numeric_date(m: Match) -> str:
    a, b, c = m["a"], m["b"], m["c"]
    if len(a) == 4:
        year_text, month, day = a, int(b), int(c)
    else:
        year_text, month, day = c, int(a), int(b)
        if month > 12:
            month, day = day, month
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return m[0]
    if len(year_text) == 2:
        year_text = ("20" if int(year_text) < 50 else "19") + year_text
    return _date(str(day), MONTHS[month - 1], year_text)


def _short_date(m: Match) -> str:
    month, day = int(m["a"]), int(m["b"])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return m[0]
    return f"{m['lead']} {_date(str(day), MONTHS[month - 1], None)}"


def _decade(m: Match) -> str:
    text = m["decade"]
    spoken = year(text) if len(text) == 4 else cardinal(text)
    return plural(spoken)


def _half(mark: str | None) -> str:
    return "" if not mark else " A M" if mark[0] in "aA" else " P M"


def _lost_stop(m: Match) -> str:
    """The full stop that an abbreviation's own dot stood for: at the end, or before a new sentence."""
    return "." if m[0].endswith(".") and not m.string[m.end() :].strip() else ""


def _clock(m: Match) -> str:
    hour, minute, second = int(m["h"]), int(m["m"]), m["s"]
    if minute > 59:
        return m[0]
    if hour > 24:
        return f"{cardinal(hour)} {'oh ' if 0 < minute < 10 else ''}{cardinal(minute)}"
    half = _half(m["half"]) + _lost_stop(m)
    spoken = "zero" if hour == 0 and not half else cardinal(hour)
    if second:
        spoken += f" {'oh ' if 0 < minute < 10 else ''}{cardinal(minute)} and {cardinal(int(second))} seconds"
    elif minute:
        spoken += f" {'oh ' if minute < 10 else ''}{cardinal(minute)}"
    elif hour == 0 or hour > 12:
        spoken += " hundred" if hour else " hundred hours"
    elif not half and not re.match(r"\s*o'?clock", m.string[m.end() :]):
        spoken += " o'clock"
    return spoken + half


def _hour_only(m: Match) -> str:
    first = f"{cardinal(m['h1'])} to " if m["h1"] else ""
    return f"{first}{cardinal(m['h'])}{_half(m['half'])}{_lost_stop(m)}"


def rules() -> list[Rule]:
    """Patterns and what is said for them, in the order in which they must run."""
    names = alternatives(_NAMES)
    return [
        # Dates.
        (r"\b(?P<a>\d{4})[-/.](?P<b>\d{1,2})[-/.](?P<c>\d{1,2})\b", _numeric_date),
        (r"\b(?P<a>\d{1,2})[-/](?P<b>\d{1,2})[-/](?P<c>\d{4}|\d{2})\b", _numeric_date),
        (
            r"\b(?P<lead>[Oo]n|[Bb]y|[Ss]ince|[Uu]ntil|[Dd]ue)\s(?P<a>\d{1,2})/(?P<b>\d{1,2})\b(?!/)",
            _short_date,
        ),
        (
            rf"\b(?P<month>{_MONTH})\s(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?![\d:%]|[.,]\d)"
            rf"(?:{DASH}(?P<until>\d{{1,2}})(?:st|nd|rd|th)?(?!\d))?(?:,?\s(?P<year>[12]\d{{3}})\b)?",
            _month_day,
        ),
        (
            rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s(?:of\s)?(?P<month>{_MONTH})(?!\w)"
            rf"(?:,?\s(?P<year>[12]\d{{3}})\b)?",
            _day_month,
        ),
        (rf"\b({names})\.?\s?[-–]\s?({names})\b\.?", lambda m: f"{_NAMES[m[1]]} to {_NAMES[m[2]]}"),
        (rf"\b({'|'.join(MONTH_SHORT)})\.(?=\s\d)", lambda m: _month(m[1])),
        (
            rf"\b({'|'.join(WEEKDAY_SHORT)})(?:\.,?|,)(?=\s(?:[A-Z]|\d|the\b))",
            lambda m: WEEKDAY_SHORT[m[1]] + ",",
        ),
        (r"(?<!\w)'?(?P<decade>[12]\d\d0|[1-9]0)'?s\b", _decade),
        (
            r"(?<!\w)'(?P<n>\d\d)\b(?!')",
            lambda m: cardinal(m["n"]) if m["n"][0] != "0" else f"oh {cardinal(int(m['n']))}",
        ),
        # Time of day.
        (r"\b0(?P<h>\d)00\s?(?:hrs\b\.?|hours)", lambda m: f"zero {cardinal(m['h'])} hundred hours"),
        (
            r"\b(?P<h>\d+)\s?h\s?(?P<m>\d+)\s?m(?:in)?\b",
            lambda m: (
                f"{cardinal(m['h'])} {'hour' if m['h'] == '1' else 'hours'} "
                f"{cardinal(m['m'])} {'minute' if m['m'] == '1' else 'minutes'}"
            ),
        ),
        (
            rf"\b(?P<book>{_BOOKS})\s(?P<c>\d+):(?P<v>\d+)",
            lambda m: f"{m['book']} {cardinal(m['c'])} {cardinal(m['v'])}",
        ),
        (
            r"\b(\d{1,2}(?::\d{2})?(?:\s?[aApP]\.?[mM]\.?)|\d{1,2}:\d{2})\s?[-–—]\s?(?=\d{1,2}(?::\d{2}|\s?[aApP]\.?[mM]))",
            template(r"\1 to "),
        ),
        (
            r"\b(?P<h>\d{1,2}):(?P<m>\d{2})(?::(?P<s>\d{2}))?(?:\s?(?P<half>[aApP]\.\s?[mM]\b\.?|[aApP][mM]\b))?",
            _clock,
        ),
        (
            rf"\b(?:(?P<h1>\d{{1,2}}){DASH})?(?P<h>\d{{1,2}})\s?(?P<half>[aApP]\.[mM]\.?|[aApP][mM]\b)",
            _hour_only,
        ),
    ]
