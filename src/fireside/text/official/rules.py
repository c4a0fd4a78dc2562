"""Small rewritings of text that the original applies after its normaliser, and the tests it decides by."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from fireside.text.word_set import word_list

Language = Literal["zh", "en"]

_CHINESE = re.compile("[\u4e00-\u9fff]")
_BRACKETS = str.maketrans("", "", "（）【】`")
_ONES = word_list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = word_list("twenty thirty forty fifty sixty seventy eighty ninety")
_SCALES = word_list(
    "thousand million billion trillion quadrillion quintillion sextillion septillion octillion nonillion decillion"
)


def language_of(text: str) -> Language:
    """Chinese if any character is; what is neither is read as English."""
    return "zh" if _CHINESE.search(text) else "en"


def only_punctuation(text: str) -> bool:
    """Whether every character is punctuation or a symbol; so for no text at all."""
    return all(unicodedata.category(char)[0] in "PS" for char in text)


def drop_blanks(text: str) -> str:
    """Chinese text without its blanks, but for those between two characters of ASCII; none at the ends."""
    kept = []
    for i, char in enumerate(text):
        around = text[i - 1 : i] + text[i + 1 : i + 2]
        if char != " " or (len(around) == 2 and around.isascii() and " " not in around):
            kept.append(char)
    return "".join(kept)


def spell_powers(text: str) -> str:
    """Raised 2 and 3 as Chinese words."""
    return text.replace("²", "平方").replace("³", "立方")


def drop_brackets(text: str) -> str:
    """Without Chinese brackets and backquotes; a long dash becomes a blank."""
    return text.translate(_BRACKETS).replace("——", " ")


def spell_numbers(text: str) -> str:
    """English text with every run of digits as the words of one whole number."""
    out: list[str] = []
    digits = ""
    for char in text:
        if char.isdigit():
            digits += char
            continue
        if digits:
            out.append(number_words(digits))
            digits = ""
        out.append(char)
    return "".join(out) + (number_words(digits) if digits else "")


def number_words(digits: str) -> str:
    """A whole number in British words, as "two thousand and one"; digit by digit beyond 36 of them.

    Characters that are digits but have no decimal value (²) do not count."""
    value = "".join(str(unicodedata.decimal(char)) for char in digits if unicodedata.decimal(char, None) is not None)
    value = value.lstrip("0")
    if not value:
        return _ONES[0]
    if len(value) > 3 * (len(_SCALES) + 1):
        return " ".join(_ONES[int(digit)] for digit in value)
    groups: list[str] = []
    scales = ["", *_SCALES]
    for i in range((len(value) - 1) // 3, -1, -1):
        group = int(value[: len(value) - 3 * i][-3:])
        if group:
            groups.append(f"{_below_thousand(group)} {scales[i]}".rstrip())
    if len(groups) > 1 and 0 < int(value[-3:]) < 100:
        last = groups.pop()
        groups[-1] += f" and {last}"
    return ", ".join(groups)


def _below_thousand(value: int) -> str:
    hundreds, rest = divmod(value, 100)
    words = [f"{_ONES[hundreds]} hundred"] if hundreds else []
    if rest >= 20:
        tens, ones = divmod(rest, 10)
        words.append(_TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else ""))
    elif rest:
        words.append(_ONES[rest])
    return " and ".join(words)
