"""The shape of a rule of the normalisers, and how rules are written and run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

Match = re.Match[str]
Rule = tuple[str, Callable[[Match], str]]
"""A pattern and what is said for its match."""
Compiled = tuple[tuple[re.Pattern[str], Callable[[Match], str]], ...]


def alternatives(keys: Iterable[str]) -> str:
    """A pattern for any of the keys, longer ones first."""
    return "|".join(re.escape(key) for key in sorted(keys, key=len, reverse=True))


def template(text: str) -> Callable[[Match], str]:
    """The action that puts a text in place of the match; `\\1` is its first group."""
    return lambda m: m.expand(text)


def compiled(rules: Iterable[Rule]) -> Compiled:
    """The rules with their patterns compiled."""
    return tuple((re.compile(pattern), action) for pattern, action in rules)
