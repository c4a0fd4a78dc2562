"""Mandarin: words, readings in context, tone sandhi, traditional characters."""

from __future__ import annotations

import pytest

from fireside.text.mandarin import mandarin_lexicon, read
from fireside.text.sandhi import Syllable, apply_sandhi


def tones(text: str) -> str:
    return "".join(r.phones[-1][-1] for r in read(text))


def phones(text: str) -> str:
    return " ".join("".join(r.phones) for r in read(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好", "23"),
        ("可以", "23"),
        ("我很好", "223"),
        ("展览馆", "223"),
        ("好学生", "321"),
        ("一个", "24"),
        ("一天", "41"),
        ("一年", "42"),
        ("一起", "43"),
        ("一样", "24"),
        ("第一", "41"),
        ("十一", "21"),
        ("一九九八年", "12312"),
        ("看一看", "454"),
        ("一点", "43"),
        ("三点一四", "1314"),
        ("一点五", "123"),
        ("两点一刻", "2324"),
        ("一百一十", "4312"),
        ("统一", "31"),
        ("不是", "24"),
        ("不好", "43"),
        ("不来", "42"),
        ("好不好", "353"),
    ],
)
def test_tone_sandhi(text: str, expected: str) -> None:
    assert tones(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("银行", "in2 hang2"),
        ("行走", "xing2 zou3"),
        ("长大", "zhang3 da4"),
        ("很长", "hen3 chang2"),
        ("音乐", "in1 ve4"),
        ("快乐", "kuai4 le4"),
        ("重要", "zhong4 iao4"),
        ("重复", "chong2 fu4"),
        ("觉得", "jve2 de5"),
        ("睡觉", "shuei4 jiao4"),
        ("还书", "hai2 shu1"),
        ("三只猫", "san1 zhii1 mao1"),
        ("两种茶", "liang2 zhong3 cha2"),
        ("高兴地说", "gao1 xing4 de5 shuo1"),
        ("跑得快", "pao3 de5 kuai4"),
        ("我得走了", "uo2 dei2 zou3 le5"),
    ],
)
def test_readings_follow_the_word(text: str, expected: str) -> None:
    assert phones(text) == expected


def test_a_pause_stops_sandhi() -> None:
    third = Syllable("好", "hao", "3", word_end=True)
    paused = Syllable("好", "hao", "3", word_end=True, pause=True)
    assert [s.tone for s in apply_sandhi([third, third])] == ["2", "3"]
    assert [s.tone for s in apply_sandhi([paused, third])] == ["3", "3"]


def test_sandhi_leaves_its_input_alone() -> None:
    syllables = [Syllable("你", "ni", "3", False), Syllable("好", "hao", "3", True)]
    apply_sandhi(syllables)
    assert [s.tone for s in syllables] == ["3", "3"]


def test_words_are_the_likeliest() -> None:
    assert mandarin_lexicon().segment("我们今天去北京大学") == ["我们", "今天", "去", "北京大学"]
    assert [r.word_end for r in read("我们去")] == [False, True, True]


def test_traditional_reads_as_simplified() -> None:
    assert phones("頭髮乾淨") == phones("头发干净")


def test_characters_without_a_reading_are_left_out() -> None:
    assert phones("你㗎好") in (phones("你好"), phones("你") + " jia4 " + phones("好"), "ni3 jia4 hao3")
    assert read("") == []
