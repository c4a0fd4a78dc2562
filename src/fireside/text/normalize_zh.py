"""Mandarin text to the characters that are read: numbers, dates, money, units, symbols.

`normalize(text)` is for a stretch that is read in Mandarin; Latin words in it stay as they are. It never raises.
The rules (in `fireside.text.zh`) run in order, and later ones see what the earlier ones left.
"""

from __future__ import annotations

from functools import lru_cache

from fireside.text.rule import Compiled, compiled
from fireside.text.zh import amounts, counting, dates


@lru_cache(maxsize=1)
def _compiled() -> Compiled:
    return compiled(rule for kind in (dates, amounts, counting) for rule in kind.rules())


def normalize(text: str) -> str:
    """The characters of Mandarin text as they are read, with the punctuation that pauses."""
    for pattern, action in _compiled():
        text = pattern.sub(action, text)
    return text
