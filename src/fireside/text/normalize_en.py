"""English text to the words that are read: numbers, dates, money, units, abbreviations, symbols.

`normalize(text)` returns words and the punctuation that pauses; it never raises on any input. Each rule is a
pattern and a function; they run in order, and later rules see what the earlier ones left.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from fireside.text.abbreviations_en import (
    BEFORE_NUMBER,
    DOTTED,
    DOTTED_PHRASES,
    MONTH_SHORT,
    MONTHS,
    NUMBERED_NOUNS,
    RULERS,
    SPOKEN_SYMBOLS,
    STATES,
    TITLES,
    UNIT_ONLY,
    WEEKDAY_SHORT,
)
from fireside.text.numbers_en import (
    cardinal,
    decimal,
    digits,
    fraction,
    grouped,
    ordinal,
    plural,
    roman,
    year,
)
from fireside.text.units import CURRENCIES, CURRENCY_CODES, MAGNITUDES, UNITS
from fireside.text.word_set import word_set

Match = re.Match[str]
Rule = tuple[re.Pattern[str], Callable[[Match], str]]

_INT = r"\d{1,3}(?:,\d{3})+|\d+"
_NUM = rf"(?:{_INT})(?:\.\d+)?|(?<![\d.])\.\d+"
_DASH = r"\s?[-–—~]\s?"
_MONTH = "|".join([*MONTHS, *(rf"{short}\b\.?" for short in sorted(MONTH_SHORT, key=len, reverse=True))])
_SCALE = "thousand|million|billion|trillion"
_NOT_BEFORE = r"(?<![\w.])"


def _alternatives(keys: object) -> str:
    return "|".join(re.escape(key) for key in sorted(keys, key=len, reverse=True))  # type: ignore[call-overload]


# --- Dates
# ---------------------------------------------------------------------------------------------------


def _month(name: str) -> str:
    name = name.rstrip(".")
    return MONTH_SHORT.get(name, name)


_NAMES = {**MONTH_SHORT, **WEEKDAY_SHORT}
_BOOKS = (
    "Genesis|Exodus|Psalms?|Proverbs|Isaiah|Jeremiah|Matthew|Mark|Luke|John|Acts|Romans|Corinthians|Galatians|"
    "Ephesians|Philippians|Hebrews|James|Peter|Revelation|Samuel|Kings|Chronicles|Job|Daniel"
)


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


# --- Time
# ----------------------------------------------------------------------------------------------------


def _half(mark: str | None) -> str:
    return "" if not mark else " A M" if mark[0] in "aA" else " P M"


def _lost_stop(m: Match) -> str:
    """The full stop that an abbreviation's own dot stood for: at the end, or before a new sentence."""
    return "." if m[0].endswith(".") and re.match(r"\s*$|\s+[A-Z]", m.string[m.end() :]) else ""


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


# --- Money and measures
# --------------------------------------------------------------------------------------


def _one_thing(m: Match) -> bool:
    """Whether an amount describes a noun after an article: "a $5 bill", "a 3 m rope"; its unit is
    singular."""
    after = m.string[m.end() :]
    article = re.search(r"\b[Aa]n?\s+$", m.string[: m.start()])
    return bool(
        article and re.match(r"[- ](?!(?:of|and|or|in|to|per|from|for|at|a|is|on|by|with)\b)[a-z]", after)
    )


def _money_words(symbol: str, amount: str, scale: str | None) -> str:
    one, many, cent, cents, _ = CURRENCIES[symbol]
    amount = amount.replace(",", "")
    if scale:
        return f"{decimal(amount)} {MAGNITUDES.get(scale, scale.lower())} {many}"
    whole, _, part = amount.partition(".")
    if part and (len(part) != 2 or not cent):
        return f"{decimal(amount)} {many}"
    words = []
    if int(whole or 0) or not int(part or 0):
        words.append(f"{cardinal(whole or '0')} {one if int(whole or 0) == 1 else many}")
    if part and int(part):
        words.append(f"{cardinal(int(part))} {cent if int(part) == 1 else cents}")
    return " and ".join(words)


def _money(m: Match) -> str:
    spoken = _money_words(m["cur"], m["amount"], m["scale"])
    if m["until"]:
        unit = CURRENCIES[m["cur"]][1]
        first = _money_words(m["cur"], m["amount"], m["scale"])
        if not m["scale"] or m["scale"] == m["scale2"]:
            first = (
                decimal(m["amount"].replace(",", "")) if "." not in m["amount"] else first.replace(unit, "")
            )
        last = _money_words(m["cur"], m["until"], m["scale2"])
        spoken = f"{first.strip()} to {last}"
    elif _one_thing(m) and "." not in m["amount"]:
        one, many, *_ = CURRENCIES[m["cur"]]
        spoken = spoken.replace(many, one)
    return ("minus " if m["sign"] else "") + spoken + (" per " if m["per"] else "")


def _money_code(m: Match) -> str:
    code = m["code"] or m["code2"]
    one, many, _ = CURRENCY_CODES[code]
    amount = (m["amount"] or m["amount2"]).replace(",", "")
    scale = m["scale"] or m["scale2"]
    read = f" {MAGNITUDES.get(scale, scale.lower())}" if scale else ""
    return f"{decimal(amount)}{read} {one if amount == '1' and not scale else many}"


def _unit_words(symbol: str, amount: str, hyphen: bool = False) -> str:
    one, many, _ = UNITS[symbol]
    return one if amount in ("1", "-1") or hyphen else many


def _measure(m: Match) -> str:
    amount, unit = m["amount"].replace(",", ""), m["unit"]
    hyphen = m["hyphen"] == "-" or _one_thing(m)
    sign = "minus " if m["sign"] else ""
    first = f"{decimal(m['from'].replace(',', ''))} to " if m["from"] else ""
    return f"{sign}{first}{decimal(amount)} {_unit_words(unit, amount, hyphen)}"


def _feet_inches(m: Match) -> str:
    feet, inches = m["ft"], m["in"]
    return f"{cardinal(feet)} {'foot' if feet == '1' else 'feet'} {cardinal(inches)}"


def _inches(m: Match) -> str:
    return f"{decimal(m['n'])} {'inch' if m['n'] == '1' or _one_thing(m) else 'inches'}"


def _percent(m: Match) -> str:
    first = f"{decimal(m['from'])} to " if m["from"] else ""
    sign = "minus " if m["sign"] else "plus " if m["plus"] else ""
    return f"{sign}{first}{decimal(m['n'].replace(',', ''))} percent"


def _magnitude(m: Match) -> str:
    scale = m["scale"]
    event = re.match(r"\s(?:run|race|resolution|video|screen|monitor|TV)", m.string[m.end() :])
    if event or (scale == "K" and m["n"] in ("2", "4", "8")):
        return f"{cardinal(m['n'])} K"
    return f"{decimal(m['n'].replace(',', ''))} {MAGNITUDES[scale]}"


# --- Telephones, networks, identifiers
# -------------------------------------------------------------------------


def _phone(m: Match) -> str:
    groups = re.findall(r"\d+", m[0])
    lead = "plus " if m[0].lstrip("( ").startswith("+") else ""
    spoken = [
        "eight hundred" if group == "800" and i < 2 else digits(group) for i, group in enumerate(groups)
    ]
    return lead + ", ".join(spoken)


def _spell_address(text: str) -> str:
    names = {
        **{
            ".": "dot",
            "/": "slash",
            "-": "dash",
            "_": "underscore",
            "@": "at",
            ":": "colon",
            "?": "question mark",
        },
        **{"=": "equals", "&": "and", "#": "hash", "%": "percent", "+": "plus", "~": "tilde"},
    }
    words = []
    for piece in re.findall(r"[A-Za-z]+|\d+|[^\w\s]|_", text):
        if piece.isdigit():
            words.append(cardinal(piece) if len(piece) < 3 else digits(piece))
        elif piece.isalpha():
            words.append(" ".join(piece.upper()) if piece.lower() in _SPELLED_PARTS else piece.lower())
        else:
            words.append(names.get(piece, ""))
    return " ".join(filter(None, words))


_SPELLED_PARTS = frozenset(
    {"www", "io", "uk", "us", "cn", "de", "fr", "tv", "ai", "html", "php", "pdf", "http"}
)
_TLD = r"(?:com|org|net|edu|gov|io|co|uk|us|cn|de|fr|jp|ai|dev|app|info|tv|me|eu|ca|au|ru|in|ly)"


def _url(m: Match) -> str:
    text = re.sub(r"^[a-z]+://", "", m[0], flags=re.I)
    tail = re.search(r"[.,;:!?)/]+$", text)
    mark = ""
    if tail:
        mark = tail[0].strip("/)")[:1]
        text = text[: tail.start()]
    return _spell_address(text) + mark


def _mail(m: Match) -> str:
    return _spell_address(m[0])


def _version(m: Match) -> str:
    parts = [part for part in m[0].lstrip("vV").split(".")]
    lead = "version " if m[0][0] in "vV" else ""
    read = digits if len(parts) == 4 and all(len(p) <= 3 for p in parts) else cardinal
    joint = " dot " if len(parts) == 4 else " point "
    return lead + joint.join(read(part) for part in parts)


# --- Plain numbers
# --------------------------------------------------------------------------------------------

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
    if re.fullmatch(r"1\d{3}|20\d\d", first) and len(last) in (2, 4) and "," not in m[0]:
        end = (
            year(last)
            if len(last) == 4
            else cardinal(int(last))
            if int(last) > 9
            else f"oh {cardinal(int(last))}"
        )
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
_ROMAN_WORDS = frozenset(
    {"MIX", "DI", "LI", "CV", "CD", "DC", "MD", "MC", "CC", "DM", "MM", "MI", "XL", "CIVIC"}
)


# --- Words
# ----------------------------------------------------------------------------------------------------


def _doctor(m: Match) -> str:
    before, after = m.string[: m.start()], m.string[m.end() :]
    word = m["abbr"]
    name_after = re.match(r"\s+[A-Z]", after)
    name_before = re.search(r"[A-Z][\w']*\s+$|\b\d+(?:st|nd|rd|th)\s+$", before)
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
    end = not after.strip() or (
        abbr in ("etc", "Jr", "Inc", "Ltd", "Co", "Corp") and re.match(r"\s+[A-Z]", after)
    )
    # "Apple Inc. said" goes on; "cats, dogs, etc. They ..." ends.
    if abbr in ("Inc", "Ltd", "Co", "Corp", "Jr") and after.strip():
        end = None
    return DOTTED[abbr] + ("." if end else "")


def _before_number(m: Match) -> str:
    return BEFORE_NUMBER[m["abbr"]] + " "


def _initialism(m: Match) -> str:
    letters = re.findall(r"[A-Za-z]", m[0])
    if [letter.lower() for letter in letters] in (["a", "m"], ["p", "m"]):
        letters = [letter.upper() for letter in letters]
    after = m.string[m.end() :]
    end = (
        "." if not after.strip() or (re.match(r"\s+[A-Z][a-z]+\s+[a-z]", after) and len(letters) > 2) else ""
    )
    return " ".join(letters).upper() + end


def _slash(m: Match) -> str:
    pair = (m[1].lower(), m[2].lower())
    if pair == ("and", "or"):
        return "and or"
    if pair in _EITHER:
        return f"{m[1]} or {m[2]}"
    return f"{m[1]} slash {m[2]}"


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


def _state(m: Match) -> str:
    tail = f" {digits(m['zip'])}" if m["zip"] else ""
    if not tail and m["state"] in _STATE_WORDS:
        return m[0]
    return f"{m['lead']}{STATES[m['state']]}{tail}"


_STATE_WORDS = frozenset({"OK", "IN", "OR", "ME", "HI", "MA", "PA", "ID", "AL", "LA"})


def _letters_digits(m: Match) -> str:
    # Formulas and models: CO2, PS5.
    text = re.sub(r"\b([A-Z]{2,3})(?=\d)|(?<=\d)([A-Z]{2,3})(?=\d)", lambda found: " ".join(found[0]), m[0])
    return re.sub(r"(?<=[A-Za-z])[-]?(?=\d)|(?<=\d)[-]?(?=[A-Za-z])", " ", text)


def _symbol(m: Match) -> str:
    return f" {SPOKEN_SYMBOLS[m[0]]} "


def _repl(text: str) -> Callable[[Match], str]:
    return lambda m: m.expand(text)


@lru_cache(maxsize=1)
def _rules() -> tuple[Rule, ...]:
    units = _alternatives(UNITS)
    names = _alternatives(_NAMES)
    currency = _alternatives(CURRENCIES)
    codes = "|".join(CURRENCY_CODES)
    scales = rf"(?:\s?(?P<scale>{_SCALE}|bn|mn|tn|[kKMBT])\b)?"
    scales2 = scales.replace("<scale>", "<scale2>")
    table: list[tuple[str, Callable[[Match], str]]] = [
        # Addresses first: nothing in them is a sentence.
        (r"[A-Za-z0-9._+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", _mail),
        (rf"\bhttps?://[^\s]+|\bwww\.[^\s]+|\b[A-Za-z][\w-]*(?:\.[\w-]+)*\.{_TLD}\b(?:/[^\s,]*)?", _url),
        *((pattern, _repl(text)) for pattern, text in DOTTED_PHRASES),
        # Telephones and networks.
        (r"(?<![\w.,-])\+?\d{0,3}[-. ]?\(\d{3}\)[-. ]?\d{3}[-. ]\d{4}\b", _phone),
        (r"(?<![\w.,-])\+\d{1,3}(?:[-. ]\d{2,4}){2,4}\b", _phone),
        (r"(?<![\w.,-])(?:1[-. ])?\d{3}[-.]\d{3}[-.]\d{4}\b", _phone),
        (r"(?<![\w.,/-])\d{3}-\d{4}\b(?!-)", _phone),
        (r"(?<![\w.,-])\d{4}(?:[ -]\d{4}){2,4}\b", _phone),
        (r"\b\d{3}-\d{2}-\d{4}\b", _phone),
        (
            r"\b(?P<cue>[Dd]ial|[Cc]all|[Pp]hone|[Tt]ext|[Pp]ress|PIN|pin|code|extension|ext\.)\s(?P<n>\d{3,})\b(?![,.:/-]?\d|\s(?!for|to|if|now|or|and)[a-z])",
            lambda m: f"{m['cue']} {digits(m['n'])}",
        ),
        (r"\b[vV]?\d+(?:\.\d+){2,3}\b", _version),
        # Dates.
        (r"\b(?P<a>\d{4})[-/.](?P<b>\d{1,2})[-/.](?P<c>\d{1,2})\b", _numeric_date),
        (r"\b(?P<a>\d{1,2})[-/](?P<b>\d{1,2})[-/](?P<c>\d{4}|\d{2})\b", _numeric_date),
        (
            r"\b(?P<lead>[Oo]n|[Bb]y|[Ss]ince|[Uu]ntil|[Dd]ue)\s(?P<a>\d{1,2})/(?P<b>\d{1,2})\b(?!/)",
            _short_date,
        ),
        (
            rf"\b(?P<month>{_MONTH})\s(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?![\d:%]|[.,]\d)"
            rf"(?:{_DASH}(?P<until>\d{{1,2}})(?:st|nd|rd|th)?(?!\d))?(?:,?\s(?P<year>[12]\d{{3}})\b)?",
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
        (
            rf"\b(?P<book>{_BOOKS})\s(?P<c>\d+):(?P<v>\d+)",
            lambda m: f"{m['book']} {cardinal(m['c'])} {cardinal(m['v'])}",
        ),
        (r"\b(\d{1,2}:\d{2}(?:\s?[ap]\.?m\.?)?)\s?[-–—]\s?(?=\d{1,2}:\d{2})", _repl(r"\1 to ")),
        (
            r"\b(?P<h>\d{1,2}):(?P<m>\d{2})(?::(?P<s>\d{2}))?(?:\s?(?P<half>[aApP]\.\s?[mM]\b\.?|[aApP][mM]\b))?",
            _clock,
        ),
        (
            rf"\b(?:(?P<h1>\d{{1,2}}){_DASH})?(?P<h>\d{{1,2}})\s?(?P<half>[aApP]\.[mM]\.?|[aApP][mM]\b)",
            _hour_only,
        ),
        # Money.
        (
            rf"(?P<sign>[-−])?(?P<cur>{currency})\s?(?P<amount>{_NUM}){scales}"
            rf"(?:{_DASH}(?:{currency})?(?P<until>{_NUM}){scales2})?(?P<per>/(?=[a-z]))?",
            _money,
        ),
        (
            rf"\b(?:(?P<code>{codes})\s?(?P<amount>{_NUM}){scales}|(?P<amount2>{_NUM}){scales2}\s?(?P<code2>{codes})\b)",
            _money_code,
        ),
        (
            rf"(?P<n>{_INT})¢",
            lambda m: f"{cardinal(m['n'])} {'cent' if m['n'] == '1' or _one_thing(m) else 'cents'}",
        ),
        # Measures.
        (r"(?<=\d)\s?[-−–]\s?(?=\d[\d.,]*\s?=)", _repl(" minus ")),
        (r"(?<=\d)\s?[x×*]\s?(?=\d+\s?(?:=|\b(?!\w)))(?=[^=\n]*=)", _repl(" times ")),
        (r"(?<=\d)\s?[x×]\s?(?=\d)", _repl(" by ")),
        (r"(?<![\w.])(?P<ft>\d)\s?ft\.?\s(?P<in>\d{1,2})\s?in\b\.?", lambda m: _feet_inches(m) + " inches"),
        (r"(?<![\w.])(?P<ft>\d)['′]\s?(?P<in>\d{1,2})[\"″]?", _feet_inches),
        (rf"(?<![\w.])(?P<n>{_NUM})(?:[\"″]|-?\s?in\.(?=\s[a-z]))", _inches),
        (
            rf"(?<![\w.])(?:(?P<from>{_NUM})\s?%?{_DASH})?(?:(?P<sign>(?<![\w\s])[-−]|(?<!\S)[-−])|(?P<plus>\+))?"
            rf"(?P<n>{_NUM})\s?%",
            _percent,
        ),
        (
            rf"(?<![\w.])(?P<sign>(?<![\w)])[-−])?(?:(?P<from>{_NUM})(?:{units})?{_DASH})?"
            rf"(?P<amount>{_NUM})(?P<hyphen>-|\s)?(?P<unit>{units})(?![\w²³/]|\.\w|'\w)(?:\.(?=\s[a-z\d]))?",
            _measure,
        ),
        (
            r"(?<=\w)\s?/\s?(?=(?:hour|hr|day|month|week|year|person|second|minute|kg|mile)s?\b)",
            _repl(" per "),
        ),
        (rf"(?<![\w.])(?P<n>{_NUM})(?P<scale>k|K|M|bn|mn|tn|B(?=\s[a-z])|(?<=\.\d)B)\b", _magnitude),
        # Names of things with numbers.
        (r"\b(?P<a>[A-Z]{1,3})&(?P<b>[A-Z]{1,3})\b", lambda m: f"{' '.join(m['a'])} and {' '.join(m['b'])}"),
        (r"\b([A-G])#", _repl(r"\1 sharp")),
        (r"#(?P<n>\d+)\b", lambda m: f"number {cardinal(m['n'])}"),
        (r"#(?=[A-Za-z])", _repl("hashtag ")),
        (
            rf"\b(?P<abbr>{_alternatives(BEFORE_NUMBER)})\.\s?(?=\d|(?!I\b)[IVX]+\b)",
            _before_number,
        ),
        (r"(?<![\w.])(?P<abbr>v)(?=\d)", _before_number),
        (
            r"\b(?P<name>[Ff]light|Boeing|[Rr]oom|[Rr]oute|[Hh]ighway|Interstate|[Ss]uite|Airbus A)"
            r"\s?(?P<n>\d{3,4})\b(?!,\d)",
            _named_number,
        ),
        (r"\b(?!AD\b|BC\b|CE\b)(?P<name>[A-Z]{2,})\s(?P<n>[1-9]\d{3})\b(?!,\d)", _named_number),
        (r"\b(?P<name>[A-Z])-?(?P<n>[1-9]\d{2})\b(?!,\d)", _named_number),
        # Numbers.
        (r"(?<![\w.])(?P<n>\d+)(?:st|nd|rd|th|ST|ND|RD|TH)\b", lambda m: ordinal(m["n"])),
        (r"(?P<lead>,\s)(?P<state>" + "|".join(STATES) + r")\b(?:\s(?P<zip>\d{5})\b)?", _state),
        (r"(?P<base>[A-Za-z0-9]+|\))(?:(?P<sup>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)|\^(?P<caret>-?\d+))", _power),
        (r"\b(?P<w>\d+)[ -](?P<n>\d{1,2})/(?P<d>\d{1,3})\b(?!/)", _mixed_fraction),
        (
            r"(?<![\w/.])(?P<n>\d+\.\d+)/(?P<d>\d+)\b",
            lambda m: f"{decimal(m['n'])} out of {cardinal(m['d'])}",
        ),
        (r"(?<![\w/.])(?P<n>\d{1,4})/(?P<d>\d{1,4})(?:ths?|rds?|nds?)?\b(?!/)", _fraction),
        (rf"(?<![\w.,-])(?P<a>{_NUM})(?:\s?[–—~]\s?|-)(?P<b>{_NUM})(?![\w-])", _range),
        (r"(?<![\w.])(?P<a>\d+):(?P<b>\d+)\b", lambda m: f"{cardinal(m['a'])} to {cardinal(m['b'])}"),
        (r"(?<=\d)\s?\*\s?(?=\d)|(?<=\d\s)\*(?=\s\d)", _repl(" times ")),
        (r"(?<=\d)\s?/\s(?=\d)", _repl(" divided by ")),
        (r"(?<=[\d)])\s[-–−]\s(?=[\d(])", _repl(" minus ")),
        (r"(?<![\w)])[-−](?=\.?\d)", _repl("minus ")),
        (r"(?<![\w)])~\s?(?=\d)", _repl("about ")),
        (r"(?<=\d)\+(?=\s|$|[.,;])", _repl(" plus")),
        (
            rf"(?<![\d.])(?:(?:{_INT})?\.\d+|(?:\d{{1,3}}(?:,\d{{3}})+|\d+)\.\d+)",
            lambda m: f" {decimal(m[0].replace(',', ''))} ",
        ),
        # Words.
        (r"\b(?P<word>[A-Za-z]+)\s(?P<roman>[IVXLC]+)\b(?!['.]\w)", _roman_after),
        (rf"\b(?:{'|'.join(_SAFE_ROMANS)})\b(?!')", lambda m: cardinal(roman(m[0]) or 0)),
        (rf"\b(?P<unit>{'|'.join(_BARE_UNITS)})\b(?!/)", lambda m: UNITS[m["unit"]][1]),
        (r"\b(?P<abbr>Dr|St)(?P<dot>\.)?(?=\W|$)", _doctor),
        (rf"\b(?P<abbr>{'|'.join(TITLES)})\.(?=\s)", _title),
        (r"\b(?P<abbr>Mr|Mrs|Ms|Messrs)\b(?=\s[A-Z])", _title),
        (rf"\b(?P<abbr>{_alternatives(DOTTED)})\.(?!\w)", _dotted),
        (r"\betc\b", _repl("et cetera")),
        (r"\bvs\b", _repl("versus")),
        (r"\b(?:[A-Za-z]\.\s?){2,}(?![A-Za-z]\w)|\b(?:[A-Za-z]\.){2,}", _initialism),
        (r"\b([A-Z])\.(?=\s[A-Z])", _repl(r"\1")),
        (r"\b([A-Za-z]+)/([A-Za-z]+)\b", _slash),
        (r"\bMt(?=\s[A-Z])", _repl("mount")),
        (r"(?<=[A-Za-z])&(?=[A-Za-z])", _repl(" and ")),
        (
            r"\b(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z0-9]+(?:-\d+)?\b|\b[A-Za-z]+-\d+\b|\b\d+-[A-Za-z]",
            _letters_digits,
        ),
        (rf"(?P<n>{_INT})", _integer),
        (r"[" + re.escape("".join(SPOKEN_SYMBOLS)) + r"]", _symbol),
        (r"(?<=\w)/(?=\w)", _repl(" slash ")),
    ]
    return tuple((re.compile(pattern), action) for pattern, action in table)


_VULGAR = {
    **{"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8"},
    **{"⅞": "7/8", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5", "⅙": "1/6", "⅚": "5/6"},
}


def normalize(text: str) -> str:
    """The words of English text as they are read, with the punctuation that pauses."""
    for sign, plain in _VULGAR.items():
        text = re.sub(rf"(?<=\d)\s?{sign}", " " + plain, text).replace(sign, plain)
    for pattern, action in _rules():
        text = pattern.sub(action, text)
    return re.sub(r"\s+", " ", text).strip()
