"""Number words of both languages, and the language that a number is read in."""

from __future__ import annotations

import pytest

from fireside.text import numbers_en, numbers_zh
from fireside.text.chunks import split_languages


@pytest.mark.parametrize(
    ("n", "english", "mandarin"),
    [
        ("0", "zero", "零"),
        ("10", "ten", "十"),
        ("13", "thirteen", "十三"),
        ("21", "twenty one", "二十一"),
        ("100", "one hundred", "一百"),
        ("105", "one hundred five", "一百零五"),
        ("110", "one hundred ten", "一百一十"),
        ("1001", "one thousand one", "一千零一"),
        ("2000", "two thousand", "两千"),
        ("10010", "ten thousand ten", "一万零一十"),
        ("20000", "twenty thousand", "两万"),
        ("123456", "one hundred twenty three thousand four hundred fifty six", "十二万三千四百五十六"),
        ("100000001", "one hundred million one", "一亿零一"),
        ("1,000,000", "one million", "一百万"),
        ("-7", "minus seven", "负七"),
        ("007", "zero zero seven", "零零七"),
    ],
)
def test_cardinals(n: str, english: str, mandarin: str) -> None:
    assert numbers_en.cardinal(n) == english
    assert numbers_zh.cardinal(n) == mandarin


def test_numbers_beyond_words_are_read_digit_by_digit() -> None:
    assert numbers_en.cardinal("9" * 50) == " ".join(["nine"] * 50)
    assert numbers_zh.cardinal("9" * 50) == "九" * 50


@pytest.mark.parametrize(
    ("n", "words"),
    [(1, "first"), (12, "twelfth"), (20, "twentieth"), (23, "twenty third"), (100, "one hundredth")],
)
def test_ordinals(n: int, words: str) -> None:
    assert numbers_en.ordinal(n) == words


@pytest.mark.parametrize(
    ("n", "words"),
    [
        ("1066", "ten sixty six"),
        ("1900", "nineteen hundred"),
        ("1905", "nineteen oh five"),
        ("2000", "two thousand"),
        ("2009", "two thousand nine"),
        ("2024", "twenty twenty four"),
    ],
)
def test_years(n: str, words: str) -> None:
    assert numbers_en.year(n) == words


def test_fractions_and_decimals() -> None:
    assert numbers_en.fraction("1", "2") == "one half"
    assert numbers_en.fraction("3", "4") == "three quarters"
    assert numbers_en.fraction("7", "48") == "seven over forty eight"
    assert numbers_en.decimal("3.14") == "three point one four"
    assert numbers_zh.decimal("3.14") == "三点一四"
    assert numbers_zh.counted("2") == "两"


def test_roman_numerals() -> None:
    assert [numbers_en.roman(r) for r in ("IV", "XIV", "MCMXCIX", "IIII", "VX", "A", "")] == [
        *(4, 14, 1999),
        *(None, None, None, None),
    ]
    assert all(numbers_en.roman(numbers_en.to_roman(n)) == n for n in range(1, 4000, 37))


@pytest.mark.parametrize(
    ("text", "languages"),
    [
        ("I have 3 dogs", "en"),
        ("我有3条狗", "zh"),
        ("我买了 3 个 apple", "zh en"),
        ("iPhone 15 很贵", "en zh"),
        ("他说 I was born in 1990, 然后走了", "zh en zh"),
        ("使用 5G 网络", "zh en zh"),
        ("The price is 50元", "en zh"),
        ("42", "en"),
        ("1+1=2，好", "zh"),
    ],
)
def test_numbers_go_with_their_neighbours(text: str, languages: str) -> None:
    parts = split_languages(text)
    assert "".join(part for _, part in parts) == text
    assert " ".join(language for language, _ in parts) == languages
