"""Telephones, dates and times of day in Mandarin."""

from __future__ import annotations

import re

from fireside.text.numbers_zh import DIGITS, cardinal, counted, digits
from fireside.text.rule import Match, Rule, template


def _phone(m: Match) -> str:
    lead = "加" if m[0].startswith("+") else ""
    return lead + "，".join(digits(group, telephone=True) for group in re.findall(r"\d+", m[0]))


def _mobile(m: Match) -> str:
    text = re.sub(r"\D", "", m[0])
    return "，".join(digits(part, telephone=True) for part in (text[:3], text[3:7], text[7:]))


def _year(text: str) -> str:
    return digits(text)


def _full_date(m: Match) -> str:
    year, month, day = m["y"], int(m["m"]), int(m["d"])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return m[0]
    return f"{_year(year)}年{cardinal(month)}月{cardinal(day)}日"


def _year_month(m: Match) -> str:
    return f"{_year(m['y'])}年{cardinal(int(m['m']))}月"


def _years(m: Match) -> str:
    first = f"{_year(m['a'])}{m['n1'] or ''}到" if m["a"] else ""
    return f"{first}{_year(m['b'])}年"


def _month_day(m: Match) -> str:
    month = f"{cardinal(int(m['m']))}月"
    until = f"到{cardinal(int(m['d2']))}" if m["d2"] else ""
    return f"{month}{cardinal(int(m['d']))}{until}{m['unit'] or '日'}"


def _decade(m: Match) -> str:
    text = m["n"]
    return (digits(text) if len(text) == 4 else cardinal(text)) + "年代"


def _clock(m: Match) -> str:
    hour, minute, second = int(m["h"]), int(m["m"]), m["s"]
    if hour > 24 or minute > 59:
        return f"{cardinal(hour)}比{cardinal(minute)}"
    lead = ""
    if m["half"]:
        morning = m["half"][0] in "aA"
        lead = "上午" if morning else "下午" if hour < 6 or hour == 12 else "晚上"
        hour = hour if hour <= 12 else hour - 12
    spoken = lead + counted(str(hour)) + "点"
    if second and (minute or int(second)):
        return spoken + f"{_minutes(minute)}分{cardinal(int(second))}秒"
    if minute == 30:
        return spoken + "半"
    return spoken + (f"{_minutes(minute)}分" if minute else "")


def _duration(m: Match) -> str:
    hours = f"{counted(m['h'])}小时" if m["h"] else ""
    minute = int(m["m"])
    return f"{m['cue']}{hours}{_minutes(minute) if hours else counted(str(minute))}分{cardinal(int(m['s']))}秒"


def _minutes(minute: int) -> str:
    return f"零{DIGITS[minute]}" if minute < 10 else cardinal(minute)


def _clock_range(m: Match) -> str:
    return f"{m['a']}到{m['b']}"


def _version(m: Match) -> str:
    parts = m[0].split(".")
    read = digits if len(parts) == 4 else cardinal
    return "点".join(read(part) for part in parts)


def rules() -> list[Rule]:
    """Patterns and what is said for them, in the order in which they must run."""
    clock = r"\d{1,2}[:：]\d{2}"
    return [
        # Telephones.
        (r"(?<![\d.])(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}(?!\d)", _mobile),
        (r"[(（]0\d{2,3}[)）]\s?\d{7,8}(?!\d)", _phone),
        (r"(?<![\d.])\+?0?\d{2,4}-\d{7,8}(?:-\d{1,5})?(?!\d)", _phone),
        (r"(?<![\d.])[48]00-?\d{3}-?\d{4}(?!\d)", _phone),
        (r"(?<!\d)\d{3}-\d{3,4}-\d{4}(?!\d)", _phone),
        (r"(?<![\d.,])(?:12306|12315|10086|10010)(?![\d年月日元人个万亿.,%])", _phone),
        # Dates.
        (r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2})\s?[-–—~～]\s?(?=\d{4}[-/.])", template(r"\1到")),
        (
            r"(?<![\d-])(?P<a>(?:19|20)\d\d)[-–—~～/](?P<b>(?:19|20)\d\d)(?![\d年-])",
            lambda m: f"{digits(m['a'])}到{digits(m['b'])}",
        ),
        (
            r"(?<!\d)(?P<y>\d{4})\s?(?:年|[-/.])\s?(?P<m>\d{1,2})\s?(?:月|[-/.])\s?(?P<d>\d{1,2})(?!\d)\s?日?(?!号)",
            _full_date,
        ),
        (r"(?<!\d)(?P<y>\d{4})\s?年\s?(?P<m>\d{1,2})\s?月", _year_month),
        (
            r"(?<!\d)(?:(?P<a>\d{4})(?P<n1>年)?(?:[-–—~～至到]))?(?P<b>\d{4}|0\d|[4-9]\d)\s?年(?![代级来以之内后间龄]|份的)(?=.|$)",
            _years,
        ),
        (r"(?<!\d)(?P<b>[12]\d{3})\s?年(?P<a>)(?P<n1>)", _years),
        (r"(?<!\d)(?P<n>\d{4}|\d0)\s?年代", _decade),
        (
            r"(?<!\d)(?P<m>\d{1,2})\s?月\s?(?P<d>\d{1,2})(?:[-–—~～至到](?P<d2>\d{1,2}))?\s?(?P<unit>日|号)?(?!\d)",
            _month_day,
        ),
        (r"(?<!\d)(?:19|20)\d\d(?=世界杯|奥运|春节|赛季|财年|款|版|学年|[春夏秋冬])", lambda m: digits(m[0])),
        (r"(?<!\d)(?P<n>[05-9]0)后(?!来)", lambda m: digits(m["n"]) + "后"),
        (r"(?<![\d.])\d+(?:\.\d+){2,3}(?![\d.])", _version),
        # Time of day.
        (
            r"(?P<cue>(?:用时|耗时|历时|时长|成绩)\S{0,3}?)(?:(?P<h>\d+)[:：])?(?P<m>\d{1,2})[:：](?P<s>\d{2})(?!\d)",
            _duration,
        ),
        (rf"(?P<a>{clock})\s?[-–—~～至到]\s?(?P<b>{clock})", _clock_range),
        (
            r"(?P<pre>(?:比分|大胜|战胜|击败|赢|输|胜|领先|比例|配比|以)\S{0,6}?)(?P<h>\d+)[:：](?P<m>\d+)",
            lambda m: f"{m['pre']}{cardinal(m['h'])}比{cardinal(m['m'])}",
        ),
        (
            r"(?<!\d)(?P<h>\d{1,2})[:：](?P<m>\d{2})(?:[:：](?P<s>\d{2}))?(?!\d)(?:\s?(?P<half>[aApP]\.?[mM](?![A-Za-z])\.?))?",
            _clock,
        ),
        (
            r"(?<!\d)(?P<h>\d{1,2})\s?(?P<half>[aApP]\.?[mM](?![A-Za-z])\.?)",
            lambda m: f"{'上午' if m['half'][0] in 'aA' else '下午'}{counted(m['h'])}点",
        ),
        (r"(?P<a>\d+)[:：](?P<b>\d+)", lambda m: f"{cardinal(m['a'])}比{cardinal(m['b'])}"),
    ]
