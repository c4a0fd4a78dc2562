"""English number words."""

from __future__ import annotations

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = (
    *("", "thousand", "million", "billion", "trillion", "quadrillion", "quintillion", "sextillion"),
    *("septillion", "octillion", "nonillion", "decillion"),
)
_ORDINALS = {
    **{"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth"},
    **{"nine": "ninth", "twelve": "twelfth"},
}
_MAX_DIGITS = 3 * len(_SCALES)


def _below_thousand(n: int) -> list[str]:
    words = []
    if n >= 100:
        words += [_ONES[n // 100], "hundred"]
        n %= 100
    if n >= 20:
        words.append(_TENS[n // 10])
        n %= 10
        if n:
            words.append(_ONES[n])
    elif n:
        words.append(_ONES[n])
    return words


def digits(text: str) -> str:
    """Digit by digit: "four oh seven" is left to `year` and `grouped`; here 0 is "zero"."""
    return " ".join(_ONES[int(d)] for d in text if d.isdigit())


def cardinal(text: str | int) -> str:
    """`1234` or "1,234" as words; leading zeros, and numbers beyond the decillions, digit by digit."""
    plain = str(text).replace(",", "").replace(" ", "")
    negative = plain.startswith("-")
    plain = plain.lstrip("+-")
    if len(plain) > _MAX_DIGITS or (len(plain) > 1 and plain[0] == "0"):
        return digits(plain)
    n = int(plain)
    if n == 0:
        return _ONES[0]
    groups: list[str] = []
    scale = 0
    while n:
        n, rest = divmod(n, 1000)
        if rest:
            groups.append(" ".join([*_below_thousand(rest), *([_SCALES[scale]] if scale else [])]))
        scale += 1
    return ("minus " if negative else "") + " ".join(reversed(groups))


def ordinal_of(words: str) -> str:
    """The ordinal of a cardinal in words."""
    *head, last = words.split()
    if last in _ORDINALS:
        last = _ORDINALS[last]
    elif last.endswith("y"):
        last = last[:-1] + "ieth"
    else:
        last += "th"
    return " ".join([*head, last])


def ordinal(text: str | int) -> str:
    """ "21" as "twenty first"."""
    return ordinal_of(cardinal(text))


def decimal(text: str) -> str:
    """ "3.14" as "three point one four"; "1,234.5", ".5" and integers too."""
    sign = "minus " if text.startswith(("-", "−")) else ""
    whole, _, fraction = text.lstrip("+-−").partition(".")
    if not fraction:
        return sign + cardinal(whole)
    lead = cardinal(whole) if whole else "zero" if text.startswith("0") else ""
    return sign + " ".join(filter(None, [lead, "point", digits(fraction)]))


def year(text: str | int) -> str:
    """A year as it is said: nineteen oh five, two thousand nine, twenty twenty four."""
    plain = str(text)
    n = int(plain)
    if len(plain) != 4 or n < 1000 or n % 1000 == 0 or 2000 <= n < 2010:
        return cardinal(n)
    century, rest = divmod(n, 100)
    if rest == 0:
        return cardinal(century) + " hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def grouped(text: str) -> str:
    """A number that names something (flight 815, room 305): "eight fifteen", "three oh five"."""
    n = int(text)
    if len(text) == 3 and text[0] != "0" and n % 100:
        rest = n % 100
        return f"{_ONES[n // 100]} {'oh ' if rest < 10 else ''}{cardinal(rest)}"
    if len(text) == 4 and text[0] != "0":
        return year(text)
    return cardinal(text)


def plural(words: str) -> str:
    """The plural of the last word: nineties, thirds."""
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith("x") else "s")


def fraction(numerator: str, denominator: str) -> str:
    """ "3", "4" as "three quarters"; beyond twentieths (but for hundreds) "three over forty eight"."""
    top, bottom = int(numerator), int(denominator)
    if bottom == 2:
        name = "half"
    elif bottom == 4:
        name = "quarter"
    elif 3 <= bottom <= 20 or bottom in (100, 1000):
        name = ordinal(bottom)
        name = name.removeprefix("one ")
    else:
        return f"{cardinal(top)} over {cardinal(bottom)}"
    if top != 1:
        name = "halves" if bottom == 2 else plural(name)
    return f"{cardinal(top)} {name}"


_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


def roman(text: str) -> int | None:
    """The value of a well-formed Roman numeral, else None."""
    total = 0
    if not text:
        return None
    for here, after in zip(text, text[1:] + " ", strict=True):
        value = _ROMAN.get(here)
        if value is None:
            return None
        total += -value if _ROMAN.get(after, 0) > value else value
    return total if total and to_roman(total) == text else None


def to_roman(n: int) -> str:
    """The Roman numeral of a number below 4000."""
    out = ""
    table = (
        *((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L")),
        *((40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")),
    )
    for value, letters in table:
        while n >= value:
            out, n = out + letters, n - value
    return out
