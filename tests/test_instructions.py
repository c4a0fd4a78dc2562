"""Instructions about rate, and the refusal of all others."""

from __future__ import annotations

import pytest

from fireside.errors import UsageError
from fireside.instructions import rate_mark
from fireside.text.phones import RATES


@pytest.mark.parametrize(
    ("instruction", "mark"),
    [
        ("speak slowly", "<slower>"),
        ("Slowly, please.", "<slower>"),
        ("a little slower", "<slow>"),
        ("speak quickly", "<faster>"),
        ("quickly", "<faster>"),
        ("Please say it at a very fast pace", "<faster>"),
        ("slightly faster", "<fast>"),
        ("at a normal pace", "<normal>"),
        ("说慢一点", "<slower>"),
        ("请用尽量快的语速", None),
        ("快", "<faster>"),
        ("请用非常快的语速说", "<faster>"),
        ("稍微慢一点", "<slow>"),
        ("用正常的语速说", "<normal>"),
        ("speak slowly<|endofprompt|>", "<slower>"),
        ("sing", None),
        ("", None),
        ("please", None),
        ("slowly and quickly", None),
        ("slowly and happily", None),
        ("not slowly", None),
        ("don't speak fast", None),
        ("不要太快", None),
        ("用四川话说", None),
    ],
)
def test_rates(instruction: str, mark: str | None) -> None:
    if mark is None:
        with pytest.raises(UsageError, match="speak slowly"):
            rate_mark(instruction)
    else:
        assert rate_mark(instruction) == mark
        assert mark in RATES
