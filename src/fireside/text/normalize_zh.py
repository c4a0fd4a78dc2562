"""Mandarin text to the characters that are read: numbers, dates, money, units, symbols.

`normalize(text)` is for a stretch that is read in Mandarin; Latin words in it stay as they are. It never
raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from fireside.text.numbers_zh import DIGITS, cardinal, counted, decimal, digits
from fireside.text.units import CURRENCIES, CURRENCY_CODES, MAGNITUDES, MAGNITUDES_ZH, UNITS

Match = re.Match[str]
Rule = tuple[re.Pattern[str], Callable[[Match], str]]

_INT = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
_NUM = rf"(?:{_INT})(?:\.\d+)?"
_TO = r"\s?[-–—~～至到]\s?"
_SIGN = r"(?<![A-Za-z\d)])[-−]"
_MEASURES = (
    "个|只|条|张|本|位|名|次|天|年|周年|周|岁|小时|个月|分钟|秒|公里|千米|米|公斤|千克|斤|元|块|倍|种|件|套|台|辆|"
    "家|间|层|点|杯|瓶|碗|双|对|座|场|届|批|支|部|顿|口|颗|棵|把|盒|包|袋|箱|片|份|封|门|节|课|句|篇|首|架|艘|匹|"
    "球|票|题|集|章|桌|夜|晚(?!会)|国|轮|局|盘|胜|分(?!之)|头|根|株|朵|滴|幅|副|道|枚|粒|束|堆|群|排|列|组|队|笔|项|所|人|万|亿|千|厘米|毫米|升|毫升|克|吨|里|亩|平方|"
    "立方|摄氏度|美元|欧元|英镑|日元|港元|卢布|英里|英尺|磅|百分点|星期|礼拜|季|期|声|遍|趟|回|下|步|圈|刻钟|字|行|页|卷|册|代"
)
_PHONE_CUE = r"(?:电话|手机|热线|拨打|拨|致电|打|报警|急救|号码|联系|客服|转|分机)\D{0,4}$"
_CODE_CUE = (
    r"(?:密码|验证码|编号|学号|工号|账号|帐号|卡号|房号|邮编|单号|代码|口令|QQ|证件号|微信号|车牌)\D{0,4}$"
)
_HYPHEN_IS_MINUS = "为是到至约于达得温值负降升从"
_KNOWN_DIGITS = "618|315|520|911|985|211|996|007|1024"


def _year(text: str) -> str:
    return digits(text)


def _read_day(day: str, unit: str) -> str:
    return cardinal(int(day)) + unit


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
    return (
        f"{m['cue']}{hours}{_minutes(minute) if hours else counted(str(minute))}分{cardinal(int(m['s']))}秒"
    )


def _minutes(minute: int) -> str:
    return f"零{DIGITS[minute]}" if minute < 10 else cardinal(minute)


def _clock_range(m: Match) -> str:
    return f"{m['a']}到{m['b']}"


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
    return f"{first}{base}{sign}{decimal(m['n'].replace(',', ''))}"


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


def _phone(m: Match) -> str:
    lead = "加" if m[0].startswith("+") else ""
    return lead + "，".join(digits(group, telephone=True) for group in re.findall(r"\d+", m[0]))


def _mobile(m: Match) -> str:
    text = re.sub(r"\D", "", m[0])
    return "，".join(digits(part, telephone=True) for part in (text[:3], text[3:7], text[7:]))


def _fraction(m: Match) -> str:
    return f"{cardinal(m['d'])}分之{cardinal(m['n'])}"


def _range(m: Match) -> str:
    joint = (
        "比"
        if re.search(r"(?:比分|击败|战胜|赢|输|胜|负|平|领先|落后)\S{0,6}$", m.string[: m.start()])
        else "到"
    )
    b = m["b"].replace(",", "")
    measured = re.match(rf"\s?(?:{_MEASURES})", m.string[m.end() :])
    first = m["a"].replace(",", "")
    return f"{counted(first) if measured and joint == '到' else decimal(first)}{joint}{decimal(b)}"


def _with_measure(m: Match) -> str:
    return counted(m["n"].replace(",", "")) + m["unit"]


def _number(m: Match) -> str:
    text = m["n"]
    before = m.string[: m.start()]
    if re.search(_PHONE_CUE, before) and "." not in text and len(text) >= 3:
        return digits(text, telephone=True)
    if re.search(_CODE_CUE, before) and "." not in text and len(text) >= 3:
        return digits(text)
    if "," not in text and "." not in text and len(text) >= 9:
        return digits(text)
    return decimal(text.replace(",", ""))


def _letter_number(m: Match) -> str:
    text = m["n"]
    read = digits(text) if len(text) > 2 and "." not in text and m["a"] else decimal(text)
    return f"{m['a'] or ''} {read}"


def _power(m: Match) -> str:
    exponent = (m["sup"] or m["caret"]).translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-"))
    base = m["base"]
    base = decimal(base) if base.isdigit() else base
    if exponent in ("2", "3"):
        return f"{base}的{'平' if exponent == '2' else '立'}方"
    return f"{base}的{decimal(exponent)}次方"


def _version(m: Match) -> str:
    parts = m[0].split(".")
    read = digits if len(parts) == 4 else cardinal
    return "点".join(read(part) for part in parts)


_SYMBOLS: dict[str, str] = {
    **{"&": "和", "+": "加", "=": "等于", "±": "正负", "×": "乘", "÷": "除以", "≈": "约等于", "≠": "不等于"},
    **{"≤": "小于等于", "≥": "大于等于", "<": "小于", ">": "大于", "√": "根号", "π": "派", "∞": "无穷大"},
    **{
        "%": "百分号",
        "‰": "千分号",
        "°": "度",
        "№": "第",
        "→": "到",
        "α": "阿尔法",
        "β": "贝塔",
        "γ": "伽马",
    },
    **{"δ": "德尔塔", "Δ": "德尔塔", "λ": "拉姆达", "μ": "缪", "σ": "西格玛", "θ": "西塔", "ω": "欧米伽"},
    **{"Ω": "欧姆", "φ": "斐", "@": " at ", "#": "井号", "•": "，", "§": "第", "®": "", "™": "", "©": "版权"},
}


def _text(value: str) -> Callable[[Match], str]:
    return lambda m: m.expand(value)


@lru_cache(maxsize=1)
def _rules() -> tuple[Rule, ...]:
    def either(keys: object) -> str:
        return "|".join(re.escape(k) for k in sorted(keys, key=len, reverse=True))  # type: ignore[call-overload]

    units, currency, codes = either(UNITS), either([*CURRENCIES, "￥"]), "|".join(CURRENCY_CODES)
    scale = r"(?:\s?(?P<scale>thousand|million|billion|trillion|[kKMB]|bn|mn)\b)?"
    scale2 = scale.replace("<scale>", "<scale2>")
    clock = r"\d{1,2}[:：]\d{2}"
    table: list[tuple[str, Callable[[Match], str]]] = [
        (r"￥", _text("¥")),
        # Telephones.
        (r"(?<![\d.])(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}(?!\d)", _mobile),
        (r"[(（]0\d{2,3}[)）]\s?\d{7,8}(?!\d)", _phone),
        (r"(?<![\d.])\+?0?\d{2,4}-\d{7,8}(?:-\d{1,5})?(?!\d)", _phone),
        (r"(?<![\d.])[48]00-?\d{3}-?\d{4}(?!\d)", _phone),
        (r"(?<!\d)\d{3}-\d{3,4}-\d{4}(?!\d)", _phone),
        (r"(?<![\d.,])(?:12306|12315|10086|10010)(?![\d年月日元人个万亿.,%])", _phone),
        # Dates.
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
            r"(?<!\d)(?P<h>\d{1,2})[:：](?P<m>\d{2})(?:[:：](?P<s>\d{2}))?(?!\d)(?:\s?(?P<half>[aApP]\.?[mM]\b\.?))?",
            _clock,
        ),
        (
            r"(?<!\d)(?P<h>\d{1,2})\s?(?P<half>[aApP]\.?[mM]\b\.?)",
            lambda m: f"{'上午' if m['half'][0] in 'aA' else '下午'}{counted(m['h'])}点",
        ),
        (r"(?P<a>\d+)[:：](?P<b>\d+)", lambda m: f"{cardinal(m['a'])}比{cardinal(m['b'])}"),
        # Money.
        (
            rf"(?P<sign>[-−])?(?P<cur>{currency})\s?(?P<amount>{_NUM}){scale}(?P<big>[千万亿]+)?"
            rf"(?:{_TO}(?:{currency})?(?P<until>{_NUM})(?P<big2>[千万亿]+)?)?(?P<per>/)?",
            _money,
        ),
        (
            rf"(?<![A-Za-z])(?:(?P<code>{codes})\s?(?P<amount>{_NUM}){scale}(?P<big>[千万亿]+)?|"
            rf"(?P<amount2>{_NUM}){scale2}(?P<big2>[千万亿]+)?\s?(?P<code2>{codes})(?![A-Za-z]))",
            _money_code,
        ),
        (r"(?<=[元块])/(?=[\u4e00-\u9fff])", _text("每")),
        # Percentages and measures.
        (
            rf"(?:(?P<a>{_NUM})\s?[%‰]?{_TO})?(?P<sign>(?<![A-Za-z\d)])[-−+])?(?P<n>{_NUM})\s?(?P<mark>[%‰])",
            _percent,
        ),
        (
            rf"(?P<sign>{_SIGN})?(?:(?P<a>{_NUM})\s?(?P<unit1>{units})?{_TO})?(?P<sign2>(?<=[~～至到])[-−]|{_SIGN})?"
            rf"(?P<n>{_NUM})\s?(?P<unit>{units})(?![A-Za-z²³/])",
            _measure,
        ),
        (
            rf"(?P<n>{_NUM})\s?(?P<scale>[kKM]|bn|mn)(?![A-Za-z])(?=[\u4e00-\u9fff])",
            lambda m: m[0] if m["n"] in "248" and m["scale"] == "K" else _scaled(m["n"], m["scale"]),
        ),
        # Powers, fractions, ranges.
        (r"(?P<a>\d)·(?P<b>\d{1,2})(?!\d)", lambda m: digits(m["a"] + m["b"])),
        (rf"(?<!\d)(?:{_KNOWN_DIGITS})(?![\d.,]|\s?(?:{_MEASURES}))", lambda m: digits(m[0])),
        (
            r"(?P<cue>[图表题例式节])(?P<a>\d+)[-–](?P<b>\d+)",
            lambda m: f"{m['cue']}{cardinal(m['a'])}杠{cardinal(m['b'])}",
        ),
        (
            r"(?P<cue>血压\S{0,4}?)(?P<a>\d+)/(?P<b>\d+)",
            lambda m: f"{m['cue']}{cardinal(m['a'])}，{cardinal(m['b'])}",
        ),
        (r"(?<=\w)_(?=\w)", _text("下划线")),
        (r"(?P<base>[A-Za-z0-9)]+)(?:(?P<sup>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)|\^(?P<caret>-?\d+))", _power),
        (r"(?<![\d/.])(?P<n>\d+)/(?P<d>[1-9]\d*)(?![\d/])", _fraction),
        (r"(?<=\d)\s?[x×*]\s?(?=\d)", _text("乘")),
        (r"(?<=\d)\s-\s(?=\d)|(?<=\d)[-−](?=\d+\s?=)", _text("减")),
        (rf"(?<![\dA-Za-z.-])(?P<a>{_NUM}){_TO}(?P<b>{_NUM})(?![\d-])", _range),
        (rf"(?<=[{_HYPHEN_IS_MINUS}])[-−](?=\d)|(?<![A-Za-z\d\u4e00-\u9fff)])[-−](?=\d)", _text("负")),
        (r"(?<=[\u4e00-\u9fff])-(?=\d)", _text("")),
        # Plain numbers.
        (r"第\s?(?P<n>\d+)", lambda m: "第" + cardinal(m["n"])),
        (
            r"(?<!\d)\d{3,4}(?=路|次列车|号线|航班|号?房间?|室)|(?<=房间|航班|教室|房号)\d{3,4}",
            lambda m: digits(m[0]),
        ),
        (r"(?<=周|期|拜)(?P<n>[1-6])(?![\d.])", lambda m: cardinal(m["n"])),
        (r"(?<![\d.])(?P<n>2)(?=月(?!亮)|号|日|楼|班|级|环|路|等|维|战|人转)", lambda m: "二"),
        (rf"(?<![\d.])(?P<n>{_NUM})\s?(?P<unit>{_MEASURES})", _with_measure),
        (r"(?P<a>[A-Za-z])[- ]?(?P<n>\d+(?:\.\d+)?)(?!\d|\.\d)", _letter_number),
        (rf"(?P<n>{_NUM})", _number),
        # Symbols.
        (r"(?<=[\u4e00-\u9fff])/(?=[\u4e00-\u9fff])", _text("或")),
        (r"[" + re.escape("".join(_SYMBOLS)) + r"]", lambda m: _SYMBOLS[m[0]]),
        (r"~+|～+|·|‧|・", lambda m: ""),
    ]
    return tuple((re.compile(pattern), action) for pattern, action in table)


def normalize(text: str) -> str:
    """The characters of Mandarin text as they are read, with the punctuation that pauses."""
    for pattern, action in _rules():
        text = pattern.sub(action, text)
    return text
