"""Money and measures."""

from __future__ import annotations

import re

from fireside.text.en.patterns import DASH, INT, NUM, SCALE
from fireside.text.numbers_en import cardinal, decimal
from fireside.text.rule import Match, Rule, alternatives, template
from fireside.text.units import CURRENCIES, CURRENCY_CODES, MAGNITUDES, UNITS


def _one_thing(m: Match) -> bool:
    """Whether an amount describes a noun after an article: "a $5 bill", "a 3 m rope"; its unit is
    singular."""
    after = m.string[m.end() :]
    article = re.search(r"\b[Aa]n?\s+$", m.string[: m.start()])
    return bool(article and re.match(r"[- ](?!(?:of|and|or|in|to|per|from|for|at|a|is|on|by|with)\b)[a-z]", after))


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
            first = decimal(m["amount"].replace(",", "")) if "." not in m["amount"] else first.replace(unit, "")
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
    if m[0].endswith('"') and m.string.count('"', 0, m.start()) % 2:
        return m[0]  # the end of a quotation
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


def rules() -> list[Rule]:
    """Patterns and what is said for them, in the order in which they must run."""
    units, currency = alternatives(UNITS), alternatives(CURRENCIES)
    codes = "|".join(CURRENCY_CODES)
    scales = rf"(?:\s?(?P<scale>{SCALE}|bn|mn|tn|[kKMBT])\b)?"
    scales2 = scales.replace("<scale>", "<scale2>")
    return [
        # Money.
        (
            rf"(?P<sign>[-−])?(?P<cur>{currency})\s?(?P<amount>{NUM}){scales}"
            rf"(?:{DASH}(?:{currency})?(?P<until>{NUM}){scales2})?(?P<per>/(?=[a-z]))?",
            _money,
        ),
        (
            rf"\b(?:(?P<code>{codes})\s?(?P<amount>{NUM}){scales}|(?P<amount2>{NUM}){scales2}\s?(?P<code2>{codes})\b)",
            _money_code,
        ),
        (
            rf"(?P<n>{INT})¢",
            lambda m: f"{cardinal(m['n'])} {'cent' if m['n'] == '1' or _one_thing(m) else 'cents'}",
        ),
        # Measures.
        (r"(?<=\d)\s?[-−–]\s?(?=\d[\d.,]*\s?=)", template(" minus ")),
        (r"(?<=\d)\s?[x×*]\s?(?=\d+\s?(?:=|\b(?!\w)))(?=[^=\n]*=)", template(" times ")),
        (r"(?<=\d)\s?[x×]\s?(?=\d)", template(" by ")),
        (r"(?<![\w.])(?P<ft>\d)\s?ft\.?\s(?P<in>\d{1,2})\s?in\b\.?", lambda m: _feet_inches(m) + " inches"),
        (r"(?<![\w.])(?P<ft>\d)['′]\s?(?P<in>\d{1,2})[\"″]?", _feet_inches),
        (rf"(?<![\w.])(?P<n>{NUM})(?:[\"″]|-?\s?in\.(?=\s[a-z]))", _inches),
        (
            rf"(?<![\w.])(?:(?P<from>{NUM})\s?%?{DASH})?(?:(?P<sign>(?<![\w\s])[-−]|(?<!\S)[-−])|(?P<plus>\+))?"
            rf"(?P<n>{NUM})\s?%",
            _percent,
        ),
        (
            rf"(?<![\w.])(?P<sign>(?<![\w)])[-−])?(?:(?P<from>{NUM})(?:{units})?{DASH})?"
            rf"(?P<amount>{NUM})(?P<hyphen>-|\s)?(?P<unit>{units})(?![\w²³/]|\.\w|'\w)(?:\.(?=\s[a-z\d]|[,;:)]))?",
            _measure,
        ),
        (
            r"(?<=\w)\s?/\s?(?=(?:hour|hr|day|month|week|year|person|second|minute|kg|mile)s?\b)",
            template(" per "),
        ),
        (rf"(?<![\w.])(?P<n>{NUM})(?P<scale>k|K|M|bn|mn|tn|B(?=\s[a-z])|(?<=\.\d)B)\b", _magnitude),
    ]
