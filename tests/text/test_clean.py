"""Raw text: scripts that can be read and those that cannot, Unicode forms, brackets with pronunciations."""

from __future__ import annotations

import pytest

from fireside.errors import TextError
from fireside.text.brackets import parse
from fireside.text.clean import clean


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("привет", "Cyrillic"),
        ("こんにちは", "kana"),
        ("カタカナ", "kana"),
        ("안녕하세요", "Hangul"),
        ("مرحبا", "Arabic"),
        ("สวัสดี", "Thai"),
        ("שלום", "Hebrew"),
        ("नमस्ते", "Devanagari"),
        ("αβγ", "Greek"),
        ("Hello привет", "Cyrillic"),
    ],
)
def test_unreadable_scripts_are_named(text: str, script: str) -> None:
    with pytest.raises(TextError, match=rf"{script}.*English and Mandarin"):
        clean(text)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("café naïve Zürich señor", "cafe naive Zurich senor"),
        ("Straße Øre Łódź", "Strasse Ore Lodz"),
        ("a\u0301", "a"),
        ("Ａｂｃ１２３", "Abc123"),
        ("“Hi” ‘there’", "\"Hi\" 'there'"),
        ("wait…", "wait..."),
        ("one\u00a0two\u200bthree", "one twothree"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("α-helix", "α-helix"),
        ("Ⅳ ①", "IV 1"),
        ("H₂O", "H2O"),
        ("ok 😀👍", "ok   "),
        ("<b>bold</b>", " bold "),
        ("\ud800a\x00", "a"),
        ("1920x1080", "1920×1080"),
        ("1 000 000", "1000000"),
        ("你好，世界。", "你好，世界。"),
    ],
)
def test_plain_text(text: str, plain: str) -> None:
    assert clean(text) == plain


def test_cleaning_twice_changes_nothing() -> None:
    text = "“Ａ” café… 3½ ① [nǚ] 😀 x² 你好～ H₂O <i>so</i>"
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize(
    ("run", "phones"),
    [
        ("[HH][AH0][L][OW1]", [("HH", "AH0", "L", "OW1")]),
        ("[T][IY]", [("T", "IY1")]),
        ("[zh][ong4]", [("zh", "ong4")]),
        ("[zhong4]", [("zh", "ong4")]),
        ("[y][ong4]", [("iong4",)]),
        ("[n][v3]", [("n", "v3")]),
        ("[ni3][hao3]", [("n", "i3"), ("h", "ao3")]),
        ("[zh][ong1][g][uo2]", [("zh", "ong1"), ("g", "uo2")]),
        ("[K][AE1][T][ma1]", [("K", "AE1", "T"), ("m", "a1")]),
    ],
)
def test_pronunciations_by_hand(run: str, phones: list[tuple[str, ...]]) -> None:
    assert [spoken.phones for spoken in parse(run)] == phones


@pytest.mark.parametrize(
    ("run", "named"),
    [
        ("[XX]", "XX"),
        ("[HH][QQ1]", "QQ1"),
        ("[zh]", "zh"),
        ("[zh][K]", "K"),
        ("[bong7]", "bong7"),
        ("[zh][ong]", "ong"),
    ],
)
def test_a_bracket_that_is_no_phone_is_named(run: str, named: str) -> None:
    with pytest.raises(TextError, match=rf"\[{named}\] is no phone"):
        parse(run)
