"""Plain numbers in Mandarin: fractions, ranges, codes, measure words; and symbols."""

from __future__ import annotations

import re

from fireside.text.numbers_zh import cardinal, counted, decimal, digits
from fireside.text.rule import Match, Rule, template
from fireside.text.zh.patterns import MEASURES, NUM, TO

_PHONE_CUE = r"(?:电话|手机|热线|拨打|拨|致电|打|报警|急救|号码|联系|客服|转|分机)\D{0,4}$"
_CODE_CUE = r"(?:密码|验证码|编号|学号|工号|账号|帐号|卡号|房号|邮编|单号|代码|口令|QQ|证件号|微信号|车牌)\D{0,4}$"
_SCORE_CUE = r"(?:比分|击败|战胜|赢|输|胜|战平|打平|踢平|领先|落后)\S{0,6}$"
_HYPHEN_IS_MINUS = "为是到至约于达得温值负降升从"
_KNOWN_DIGITS = "618|315|520|911|985|211|996|007|1024"
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


def _fraction(m: Match) -> str:
    return f"{cardinal(m['d'])}分之{decimal(m['n'])}"


def _range(m: Match) -> str:
    joint = (
        "比"
        if re.search(r"(?:比分|击败|战胜|赢|输|胜|战平|打平|踢平|领先|落后)\S{0,6}$", m.string[: m.start()])
        else "到"
    )
    b = m["b"].replace(",", "")
    measured = re.match(rf"\s?(?:{MEASURES})", m.string[m.end() :])
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


def rules() -> list[Rule]:
    """Patterns and what is said for them, in the order in which they must run."""
    return [
        # Powers, fractions, ranges.
        (r"(?P<a>\d)·(?P<b>\d{1,2})(?!\d)", lambda m: digits(m["a"] + m["b"])),
        (rf"(?<!\d)(?:{_KNOWN_DIGITS})(?![\d.,]|\s?(?:{MEASURES}))", lambda m: digits(m[0])),
        (
            r"(?P<cue>[图表题例式节])(?P<a>\d+)[-–](?P<b>\d+)",
            lambda m: f"{m['cue']}{cardinal(m['a'])}杠{cardinal(m['b'])}",
        ),
        (
            r"(?P<cue>血压\S{0,4}?)(?P<a>\d+)/(?P<b>\d+)",
            lambda m: f"{m['cue']}{cardinal(m['a'])}，{cardinal(m['b'])}",
        ),
        (r"(?<=\w)_(?=\w)", template("下划线")),
        (r"(?P<base>[A-Za-z0-9)]+)(?:(?P<sup>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)|\^(?P<caret>-?\d+))", _power),
        (r"(?<![\d/.])(?P<n>\d+(?:\.\d+)?)/(?P<d>[1-9]\d*)(?![\d/])", _fraction),
        (r"(?<=\d)\s?[x×*]\s?(?=\d)", template("乘")),
        (r"(?<=\d)\s-\s(?=\d)|(?<=\d)[-−](?=\d+\s?=)", template("减")),
        (rf"(?<![\dA-Za-z.-])(?P<a>{NUM}){TO}(?P<b>{NUM})(?![\d-])", _range),
        (rf"(?<=[{_HYPHEN_IS_MINUS}])[-−](?=\d)|(?<![A-Za-z\d\u4e00-\u9fff)])[-−](?=\d)", template("负")),
        (r"(?<=[\u4e00-\u9fff])-(?=\d)", template("")),
        # Plain numbers.
        (
            r"(?P<m>\d)(?P<unit>米|元|块)(?P<cm>\d{1,2})(?![\d.米厘])",
            lambda m: f"{counted(m['m'])}{m['unit']}{digits(m['cm'])}",
        ),
        (r"(?<=[个次元块斤吨度人件台辆箱])/(?=[天日月年人小时次分斤公个件])", template("每")),
        (r"(?<=年是)\d{4}|(?<=公元)\d{3,4}|(?<=年份)\d{4}", lambda m: digits(m[0])),
        (r"[Nn][Oo]\.\s?(?P<n>\d+)", lambda m: "第" + cardinal(m["n"])),
        (r"(?<=号是|号为|号：|号:)\d{4,}(?![\d.])", lambda m: digits(m[0])),
        (r"第\s?(?P<n>\d+)", lambda m: "第" + cardinal(m["n"])),
        (
            r"(?<!\d)\d{3,4}(?=路|次列车|号线|航班|号?房间?|室)|(?<=房间|航班|教室|房号|单元|号楼)\d{3,4}(?!\d)",
            lambda m: digits(m[0]),
        ),
        (r"(?<=周|期|拜)(?P<n>[1-6])(?![\d.])", lambda m: cardinal(m["n"])),
        (r"(?<![\d.])(?P<n>2)(?=月(?!亮)|号|日|楼|班|级|环|路|等|维|战|人转)", lambda m: "二"),
        (r"(?P<a>[A-Za-z])-?(?P<n>\d+(?:\.\d+)?)(?!\d|\.\d)", _letter_number),
        (rf"(?<![\d.])(?P<n>{NUM})\s?(?P<unit>{MEASURES})", _with_measure),
        (r"(?P<a>[A-Za-z])[- ]?(?P<n>\d+(?:\.\d+)?)(?!\d|\.\d)", _letter_number),
        (rf"(?P<n>{NUM})", _number),
        # Symbols.
        (r"(?<=[\u4e00-\u9fff])/(?=[\u4e00-\u9fff])", template("或")),
        (r"[" + re.escape("".join(_SYMBOLS)) + r"]", lambda m: _SYMBOLS[m[0]]),
        (r"~+|～+|·|‧|・", lambda m: ""),
    ]
