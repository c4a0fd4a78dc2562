"""Money, percentages and measures in Mandarin."""

from __future__ import annotations

from fireside.text.numbers_zh import counted, decimal
from fireside.text.rule import Match, Rule, alternatives, template
from fireside.text.units import CURRENCIES, CURRENCY_CODES, MAGNITUDES, MAGNITUDES_ZH, UNITS
from fireside.text.zh.patterns import NUM, SIGN, TO


def _scaled(amount: str, scale: str | None) -> str:
    """The amount with an English magnitude read in 万 and 亿."""
    amount = amount.replace(",", "")
    if not scale:
        return decimal(amount)
    value = float(amount) * MAGNITUDES_ZH[MAGNITUDES.get(scale, scale.lower())]
    for unit, name in ((10**8, "亿"), (10**4, "万")):
        if value >= unit:
            return counted(f"{value / unit:.6f}".rstrip("0").rstrip(".")) + name
    return counted(f"{value:.6f}".rstrip("0").rstrip("."))


def _cents(amount: str) -> str:
    """An amount of money without the zeros that nobody says: 9.50 is 9.5, 9.00 is 9."""
    return amount.rstrip("0").rstrip(".") if "." in amount else amount


def _money(m: Match) -> str:
    unit = CURRENCIES[m["cur"]][4]
    sign = "负" if m["sign"] else ""
    amount = m["amount"].replace(",", "")
    read = _scaled(amount, m["scale"]) if m["scale"] else counted(_cents(amount))
    big = m["big"] or ""
    until = f"到{counted(m['until'].replace(',', ''))}{m['big2'] or ''}" if m["until"] else ""
    return f"{sign}{read}{big}{until}{unit}" + ("每" if m["per"] else "")


def _money_code(m: Match) -> str:
    code = m["code"] or m["code2"]
    amount, scale, big = m["amount"] or m["amount2"], m["scale"] or m["scale2"], m["big"] or m["big2"] or ""
    read = _scaled(amount, scale) if scale else counted(_cents(amount.replace(",", "")))
    return read + big + CURRENCY_CODES[code][2]


def _percent(m: Match) -> str:
    base = "千分之" if m["mark"] == "‰" else "百分之"
    sign = ("负" if m["sign"] in "-−" else "正") if m["sign"] else ""
    first = f"{base}{decimal(m['a'].replace(',', ''))}到" if m["a"] else ""
    return f"{sign}{first}{base}{decimal(m['n'].replace(',', ''))}"


def _measure(m: Match) -> str:
    name = UNITS[m["unit"]][2]
    if name[0].isascii():
        name = " " + name + " "
    temperature = m["unit"] in ("°C", "℃")
    sign = ("零下" if temperature else "负") if m["sign"] else ""
    sign2 = ("零下" if temperature else "负") if m["sign2"] else ""
    amount = m["n"].replace(",", "")
    if m["a"]:
        name1 = UNITS[m["unit1"]][2] if m["unit1"] else ""
        return f"{sign}{decimal(m['a'].replace(',', ''))}{name1}到{sign2}{decimal(amount)}{name}"
    return f"{sign or sign2}{counted(amount)}{name}"


def rules() -> list[Rule]:
    """Patterns and what is said for them, in the order in which they must run."""
    units, currency = alternatives(UNITS), alternatives([*CURRENCIES, "￥"])
    codes = "|".join(CURRENCY_CODES)
    scale = r"(?:\s?(?P<scale>thousand|million|billion|trillion|[kKMB]|bn|mn)\b)?"
    scale2 = scale.replace("<scale>", "<scale2>")
    return [
        # Money.
        (r"￥", template("¥")),
        (
            rf"(?P<sign>[-−])?(?P<cur>{currency})\s?(?P<amount>{NUM}){scale}(?P<big>[千万亿]+)?"
            rf"(?:{TO}(?:{currency})?(?P<until>{NUM})(?P<big2>[千万亿]+)?)?(?:\s?(?:元|块|美元|欧元|英镑))?(?P<per>/)?",
            _money,
        ),
        (
            rf"(?<![A-Za-z])(?:(?P<code>{codes})\s?(?P<amount>{NUM}){scale}(?P<big>[千万亿]+)?|"
            rf"(?P<amount2>{NUM}){scale2}(?P<big2>[千万亿]+)?\s?(?P<code2>{codes})(?![A-Za-z]))",
            _money_code,
        ),
        (r"(?<=[元块])/(?=[\u4e00-\u9fff])", template("每")),
        # Percentages and measures.
        (
            rf"(?:(?P<a>{NUM})\s?[%‰]?{TO})?(?P<sign>(?<![A-Za-z\d)])[-−+])?(?P<n>{NUM})\s?(?P<mark>[%‰])",
            _percent,
        ),
        (
            rf"(?P<sign>{SIGN})?(?:(?P<a>{NUM})\s?(?P<unit1>{units})?{TO})?(?P<sign2>(?<=[~～至到])[-−]|{SIGN})?"
            rf"(?P<n>{NUM})\s?(?P<unit>{units})(?![A-Za-z²³/])",
            _measure,
        ),
        (
            rf"(?P<n>{NUM})\s?(?P<scale>[kKM]|bn|mn)(?![A-Za-z])(?=[\u4e00-\u9fff])",
            lambda m: m[0] if m["n"] in "248" and m["scale"] == "K" else _scaled(m["n"], m["scale"]),
        ),
    ]
