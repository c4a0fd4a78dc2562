"""Raw text to plain text: Unicode forms, quotes, dashes, emoji; and the check that hearth can read its
script."""

from __future__ import annotations

import re
import unicodedata

from fireside.errors import TextError
from fireside.text.brackets import number_tones

_TRANSLATE = {
    **dict.fromkeys("‘’‛`´ʼ＇", "'"),
    **dict.fromkeys("“”„‟«»＂", '"'),
    **dict.fromkeys("‐‑‒", "-"),
    **dict.fromkeys("―─", "—"),
    **dict.fromkeys("\u00a0\u1680\u2007\u202f\u205f\u3000\t\v\f", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f", ""),
    **{"\r\n": "\n", "…": "...", "⋯": "...", "ﬁ": "fi", "ﬂ": "fl", "′": "'", "″": '"', "µ": "μ", "−": "-"},
    **{
        "\u2028": "\n",
        "\u2029": "\n\n",
        "℃": "°C",
        "℉": "°F",
        "㎡": "m²",
        "㎞": "km",
        "㎏": "kg",
        "㎝": "cm",
    },
    **{"⁄": "/", "∕": "/", "∶": ":", "∙": "·", "٪": "%", "º": "°", "˚": "°", "￡": "£", "￥": "¥", "＄": "$"},
    **{"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"},
    **{"đ": "d", "Đ": "D", "ð": "th", "Ð": "Th", "þ": "th", "Þ": "Th", "ı": "i", "ŋ": "ng"},
}
_TRANSLATE.update(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_TABLE = str.maketrans({key: value for key, value in _TRANSLATE.items() if len(key) == 1})
_KEEP = frozenset(
    "¢£¥€₹₩₽₿฿°±×÷√∞≈≠≤≥‰§№©®™→•·–—½¼¾⅓⅔⅛⅜⅝⅞⅕⅖⅗⅘⅙⅚²³¹⁰⁴⁵⁶⁷⁸⁹⁻π∑∫、。，！？；：（）【】《》〈〉「」『』～〇Ω∆"
)
_READABLE = "hearth reads English and Mandarin"
# First word of a character's Unicode name: how people call the script.
_SCRIPTS: dict[str, str] = {
    **{
        "CYRILLIC": "Cyrillic",
        "HIRAGANA": "Japanese kana",
        "KATAKANA": "Japanese kana",
        "HANGUL": "Korean Hangul",
    },
    **{"ARABIC": "Arabic", "HEBREW": "Hebrew", "THAI": "Thai", "LAO": "Lao", "DEVANAGARI": "Devanagari"},
    **{
        "BENGALI": "Bengali",
        "TAMIL": "Tamil",
        "TELUGU": "Telugu",
        "KANNADA": "Kannada",
        "MALAYALAM": "Malayalam",
    },
    **{"GUJARATI": "Gujarati", "GURMUKHI": "Gurmukhi", "SINHALA": "Sinhala", "MYANMAR": "Burmese"},
    **{"KHMER": "Khmer", "TIBETAN": "Tibetan", "GEORGIAN": "Georgian", "ARMENIAN": "Armenian"},
    **{"ETHIOPIC": "Ethiopic", "MONGOLIAN": "Mongolian", "GREEK": "Greek", "COPTIC": "Coptic"},
    **{"BOPOMOFO": "Bopomofo", "CHEROKEE": "Cherokee", "ORIYA": "Odia"},
}


def is_han(char: str) -> bool:
    """Whether a character is Chinese (the blocks that the word list covers)."""
    return "\u4e00" <= char <= "\u9fff" or "\u3400" <= char <= "\u4dbf" or char == "〇"


def is_latin(char: str) -> bool:
    """Whether a character is a plain Latin letter."""
    return "a" <= char <= "z" or "A" <= char <= "Z"


def fold_accents(text: str) -> str:
    """Accented Latin letters as plain ones; everything else unchanged."""
    out = []
    for char in text:
        if char.isascii() or not char.isalpha():
            out.append(char)
            continue
        base = "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))
        out.append(base if base and all(is_latin(c) for c in base) else char)
    return "".join(out)


def _script(char: str) -> str | None:
    """The name of a letter's script if hearth cannot read it, else None."""
    name = unicodedata.name(char, "")
    if is_han(char) or is_latin(char) or name.startswith("CJK"):
        return None
    word = name.split(" ")[0].split("-")[0]
    if word in _SCRIPTS:
        return _SCRIPTS[word]
    return "Latin letters of a kind" if word == "LATIN" else name.split(" ")[0].capitalize() or "unknown"


def check_scripts(text: str) -> None:
    """Raise `TextError` for letters of a script that hearth cannot read; single Greek letters are symbols."""
    for match in re.finditer(r"[^\W\d_]+", text):
        run = "".join(c for c in match[0] if c.isalpha())
        if len(run) == 1 and unicodedata.name(run, "").startswith("GREEK"):
            continue
        for i, char in enumerate(run):
            script = _script(char)
            if script is None:
                continue
            alone = not any(_script(c) for c in (run[i - 1] if i else "a", run[i + 1 : i + 2] or "a"))
            if (
                (script in ("Greek", "Latin letters of a kind") and alone)
                or char in _KEEP
                or not unicodedata.name(char, "")
            ):
                continue
            sample = run if len(run) <= 12 else run[:12] + "…"
            raise TextError(f'"{sample}" is in {script} script; {_READABLE}.')


def clean(text: str) -> str:
    """Plain text for the normaliser; raises `TextError` for unreadable scripts. May be empty."""
    text = text.encode("utf-8", "ignore").decode()  # lone surrogates are no text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Composed characters; full-width letters and digits become ASCII, other compatibility forms stay.
    text = unicodedata.normalize("NFC", text)
    text = "".join(_compatible(c) for c in text)
    text = fold_accents(number_tones(text).translate(_TABLE))
    text = text.translate(
        {ord("％"): "%", ord("＋"): "+", ord("－"): "-", ord("＝"): "=", ord("／"): "/", ord("＠"): "@"}
    )
    text = text.translate(
        {ord("＆"): "&", ord("＃"): "#", ord("．"): ".", ord("～"): "~", ord("［"): "[", ord("］"): "]"}
    )
    text = re.sub(r"</?[A-Za-z][^<>\n]{0,200}>", " ", text)  # tags of HTML
    text = re.sub(r"(?<![\d.,-])\d{1,3}(?: \d{3}){2,}(?![\d-])", lambda m: m[0].replace(" ", ""), text)
    text = re.sub(r"(?<!\S)–(?=\d)", "-", text)
    # "1920x1080": a sign between numbers, not a letter.
    text = re.sub(r"(?<=\d)(?<!\b0)(\s?)[xX](\s?)(?=\d)", r"\1×\2", text)
    check_scripts(text)
    return "".join(c if _wanted(c) else "" if unicodedata.category(c)[0] in "MC" else " " for c in text)


def _compatible(char: str) -> str:
    """Full-width letters, circled and Roman numerals, squared words as plain characters."""
    wide = "\uff01" <= char <= "\uff5e" and char.isalnum()
    if wide or "\u2460" <= char <= "\u24ff" or "\u2160" <= char <= "\u2188" or "\u3200" <= char <= "\u33ff":
        return unicodedata.normalize("NFKC", char)
    return char


def _wanted(char: str) -> bool:
    if char.isascii():
        return char.isprintable() or char == "\n"
    if char in _KEEP or is_han(char):
        return True
    return unicodedata.category(char)[0] in "LPN"
