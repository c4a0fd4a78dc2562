"""English text to the words that are read: numbers, dates, money, units, abbreviations, symbols.

`normalize(text)` returns words and the punctuation that pauses; it never raises on any input. The rules (in
`fireside.text.en`) run in order, and later ones see what the earlier ones left.
"""

from __future__ import annotations

import re
from functools import lru_cache

from fireside.text.en import addresses, amounts, counting, dates, wording
from fireside.text.rule import Compiled, compiled

_VULGAR = {
    **{"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8"},
    **{"⅞": "7/8", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5", "⅙": "1/6", "⅚": "5/6"},
}


@lru_cache(maxsize=1)
def _compiled() -> Compiled:
    kinds = (addresses, dates, amounts, counting, wording)
    return compiled([*(rule for kind in kinds for rule in kind.rules()), *counting.integers()])


def normalize(text: str) -> str:
    """The words of English text as they are read, with the punctuation that pauses."""
    for sign, plain in _VULGAR.items():
        text = re.sub(rf"(?<=\d)\s?{sign}", " " + plain, text).replace(sign, plain)
    for pattern, action in _compiled():
        text = pattern.sub(action, text)
    return re.sub(r"\s+", " ", text).strip()
