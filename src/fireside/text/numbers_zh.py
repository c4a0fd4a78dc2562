"""Mandarin number words."""

from __future__ import annotations

DIGITS = "零一二三四五六七八九"
_UNITS = ("", "十", "百", "千")
_SECTIONS = ("", "万", "亿", "万亿", "亿亿")
_MAX_DIGITS = 4 * len(_SECTIONS)


def digits(text: str, telephone: bool = False) -> str:
    """Digit by digit; on the telephone 1 is 幺."""
    read = "".join(DIGITS[int(d)] for d in text if d.isdigit())
    return read.replace("一", "幺") if telephone else read


def _section(n: int) -> str:
    """0 < n < 10000, without a leading 零."""
    out, zero = "", False
    for place in (3, 2, 1, 0):
        digit = n // 10**place % 10
        if digit:
            out += ("零" if zero and out else "") + DIGITS[digit] + _UNITS[place]
            zero = False
        else:
            zero = True
    return out


def cardinal(text: str | int) -> str:
    """`1200` or "1,200" as 一千二百; leading zeros and more than 20 digits are read one by one."""
    plain = str(text).replace(",", "")
    negative = plain.startswith("-")
    plain = plain.lstrip("+-")
    if len(plain) > _MAX_DIGITS or (len(plain) > 1 and plain[0] == "0"):
        return digits(plain)
    n = int(plain)
    if n == 0:
        return "零"
    out, gap = "", False
    for place in range(len(_SECTIONS) - 1, -1, -1):
        section = n // 10 ** (4 * place) % 10000
        if not section:
            gap = bool(out)
            continue
        if out and (gap or section < 1000):
            out += "零"
        read = _section(section)
        if section // 1000 == 2:
            read = "两" + read[1:]
        if place and section == 2:
            read = "两"
        out += read + _SECTIONS[place]
        gap = False
    if out.startswith("一十"):
        out = out[1:]
    return ("负" if negative else "") + out


def decimal(text: str) -> str:
    """ "3.14" as 三点一四; integers too."""
    sign = "负" if text.startswith(("-", "−")) else ""
    whole, _, fraction = text.lstrip("+-−").partition(".")
    read = cardinal(whole or "0")
    return sign + read + (f"点{digits(fraction)}" if fraction else "")


def counted(text: str) -> str:
    """A number before a measure word: 2 is 两, otherwise as `decimal`."""
    return "两" if text == "2" else decimal(text)
