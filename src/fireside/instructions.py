"""Instructions that hearth was taught to follow: how fast to speak, in the words people use for it."""

from __future__ import annotations

import re

from fireside.errors import UsageError

_SLOW = re.compile(r"\bslow(ly|er)?\b|慢")
_FAST = re.compile(r"\b(fast|faster|quick|quickly|quicker|rapidly)\b|快")
_NORMAL = re.compile(r"\b(normal|normally|neutral|neutrally|natural|naturally|usual)\b|正常|自然|平常")
# 慢一点 is simply how one asks for slow speech; in Chinese only 稍 and 略 make it less.
_SLIGHTLY = re.compile(r"\b(a little|a bit|slightly|somewhat)\b|稍微?|略微?")
_REST = re.compile(
    r"\b(please|can|could|would|you|speak|say|talk|read|it|this|the|text|in|at|a|with|speed|rate|pace|tempo|and|than|"
    r"more|very|really|much|quite)\b|请|用|以|把|说|讲|读|念|话|语|速|度|地|得|的|些|点|一|来|有|更|比较|你|这|段|句|吧|再|"
    r"非常|很|特别|十分|[\W\d_]"
)
# The LM's own answer to a strong mark, 14 % slower and hardly any faster (measured on hearth), is less than a listener
# expects; the mel's time scale makes up the rest.
TEMPO = {"<slower>": 0.94, "<slow>": 0.97, "<normal>": 1.0, "<fast>": 1.09, "<faster>": 1.19}
KNOWN = "'speak slowly', 'speak quickly', 'a little slower', 'a little faster', 'at a normal pace', 慢一点, 快一点"


def rate_mark(instruction: str) -> str:
    """The symbol of the rate that an instruction asks for: `<slower>`, `<slow>`, `<normal>`, `<fast>`,
    `<faster>`.

    Raises UsageError, listing what can be asked for, when it asks for nothing, for two rates, or for anything
    beside a rate ('slowly and happily' must not pass for 'slowly')."""
    text = instruction.lower().replace("<|endofprompt|>", " ")
    rates = [bool(pattern.search(text)) for pattern in (_SLOW, _FAST, _NORMAL)]
    rest = text
    for pattern in (_SLOW, _FAST, _NORMAL, _SLIGHTLY, _REST):
        rest = pattern.sub(" ", rest)
    if sum(rates) != 1 or rest.strip():
        raise UsageError(f"This voice cannot follow '{instruction}'. It can change its rate: {KNOWN}.")
    if rates[2]:
        return "<normal>"
    weak, strong = ("<slow>", "<slower>") if rates[0] else ("<fast>", "<faster>")
    return weak if _SLIGHTLY.search(text) else strong
