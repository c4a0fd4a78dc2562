"""What is read of numbers, dates, money, units, abbreviations and mixed script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from fireside.text import Frontend
from fireside.text.english import English

TABLE = yaml.safe_load((Path(__file__).parent / "reading_table.yaml").read_text(encoding="utf-8"))
MUST_BE_RIGHT = 57 / 60


def plain(text: str) -> str:
    """Words only: lower case, one space between Latin words, none at Chinese characters."""
    text = re.sub(r"[^\w\s']", " ", text.lower())
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"(?<=[\u4e00-\u9fff])\s|\s(?=[\u4e00-\u9fff])", "", text)


def read(text: str) -> str:
    """The reading with initialisms apart, as the table writes them."""
    english = English()
    spelled = re.sub(
        r"\b[A-Z]{2,}\b",
        lambda m: " ".join(m[0]) if english.initialism(m[0]) else m[0],
        Frontend().reading(text),
    )
    return plain(spelled)


def rights(row: dict) -> list[str]:
    expected = row["read"]
    return [plain(e) for e in ([expected] if isinstance(expected, str) else expected)]


@pytest.mark.parametrize("row", TABLE, ids=[row["text"][:40] for row in TABLE])
def test_read_as_a_person_would(row: dict) -> None:
    assert read(row["text"]) in rights(row)


def test_the_table_is_large_enough_and_the_bar_is_met() -> None:
    right = sum(read(row["text"]) in rights(row) for row in TABLE)
    assert len(TABLE) >= 60
    assert right / len(TABLE) >= MUST_BE_RIGHT, f"{right} of {len(TABLE)} right"
