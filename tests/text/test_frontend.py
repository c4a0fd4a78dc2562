"""The public face: pieces, words, tokens, errors; text that streams in."""

from __future__ import annotations

import random
import subprocess
import sys
import threading

import pytest

from fireside.errors import TextError
from fireside.text import Frontend, Piece, StreamingFrontend, split
from fireside.text.phones import BOUNDARY_ID, PAUSE_IDS, decode, is_spoken

FRONTEND = Frontend()


def names(piece: Piece) -> str:
    return " ".join("".join(decode(w.tokens)).replace(" ", "|") for w in piece.words)


def test_words_have_phones_then_a_pause_then_the_boundary() -> None:
    (piece,) = FRONTEND.pieces("Hello, world")
    assert [w.text for w in piece.words] == ["Hello", "world"]
    assert [decode(w.tokens) for w in piece.words] == [
        ["HH", "AH0", "L", "OW1", ",", " "],
        ["W", "ER1", "L", "D", ".", " "],
    ]
    assert piece.tokens == piece.words[0].tokens + piece.words[1].tokens


def test_characters_inside_a_mandarin_word_have_no_boundary() -> None:
    (piece,) = FRONTEND.pieces("你好，北京。")
    assert names(piece) == "ni2 hao3,| bei3 jing1.|"
    assert {w.lang for w in piece.words} == {"zh"}


def test_languages_mix_in_a_sentence() -> None:
    (piece,) = FRONTEND.pieces("我买了3个apple，OK?")
    assert [(w.text, w.lang) for w in piece.words][-3:] == [("个", "zh"), ("apple", "en"), ("OK", "en")]
    assert "三" in [w.text for w in piece.words]


def test_pronunciation_by_hand_in_a_sentence() -> None:
    (piece,) = FRONTEND.pieces("Say [T][AH0][M][EY1][T][OW0] and [zh][òng]，好。")
    assert names(piece) == "SEY1| TAH0MEY1TOW0| AE0ND| zhong4,| hao3.|"
    with pytest.raises(TextError, match=r"\[QX\]"):
        FRONTEND.pieces("Say [QX] now.")


def test_other_brackets_are_read() -> None:
    assert FRONTEND.reading("He [sic] said [see below] so [1].") == "He, sic, said, see below, so, one."


def test_every_piece_ends_in_a_pause_and_is_not_empty() -> None:
    text = "Hello there. I am here, with 3 friends. 你好吗？我很好 " * 5
    for piece in FRONTEND.pieces(text):
        assert piece.tokens[-1] == BOUNDARY_ID
        assert piece.tokens[-2] in PAUSE_IDS
        assert all(any(is_spoken(t) for t in w.tokens) for w in piece.words)
        assert all(0 < t < FRONTEND.vocab_size for t in piece.tokens)


def test_a_prompts_text_is_not_split_and_not_ended() -> None:
    words = FRONTEND.words("And so it was. That day, we")
    assert [w.text for w in words] == ["And", "so", "it", "was", "That", "day", "we"]
    assert decode(words[3].tokens)[-2:] == [".", " "]
    assert not PAUSE_IDS.intersection(words[-1].tokens)


@pytest.mark.parametrize("text", ["", "  \n", "...", "。！", "😀", "-", "$", "\ud800"])
@pytest.mark.parametrize("method", ["pieces", "words"])
def test_nothing_to_say_is_a_clear_error(text: str, method: str) -> None:
    with pytest.raises(TextError, match=r"empty|nothing to say"):
        getattr(FRONTEND, method)(text)


def test_unreadable_script_is_a_clear_error() -> None:
    with pytest.raises(TextError, match=r"Cyrillic.*English and Mandarin"):
        FRONTEND.pieces("Hello мир")


def test_numbers_alone_follow_the_language_around() -> None:
    assert [p.words[0].lang for p in FRONTEND.pieces("今天我们学习数学。\n\n12345678。")][-1] == "zh"
    assert FRONTEND.pieces("42")[0].words[0].text == "forty"


def test_twenty_thousand_characters_of_anything() -> None:
    alphabet = "abc DEF .,!?;:'\"()-–—/\\$£€¥%°#@&*+=<>{}0123456789 \n\t"
    alphabet += "你好世界一不的。，！？：；、“”（）éüñ½²√π😀"
    chooser = random.Random(7)
    text = "".join(chooser.choice(alphabet) for _ in range(20000))
    pieces = FRONTEND.pieces(text)
    assert sum(len(p.tokens) for p in pieces) > 5000
    assert max(len(p.tokens) for p in pieces) < 500


def test_every_short_string_of_odd_characters_reads_or_says_why() -> None:
    chooser = random.Random(11)
    alphabet = "aZ1.,'-$%[]()/:年月个2℃~@#&é你[zh][HH]"
    for _ in range(500):
        text = "".join(chooser.choice(alphabet) for _ in range(chooser.randint(1, 9)))
        try:
            pieces = FRONTEND.pieces(text)
        except TextError:
            continue
        assert pieces
        assert all(p.words for p in pieces)


def test_threads_share_a_front_end() -> None:
    texts = [f"Number {i} costs ${i}.50. 第{i}个。" for i in range(40)]
    alone = [FRONTEND.pieces(t) for t in texts]
    got: dict[int, list[Piece]] = {}
    fresh = Frontend()
    threads = [threading.Thread(target=lambda i=i: got.update({i: fresh.pieces(texts[i])})) for i in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [got[i] for i in range(40)] == alone


def test_importing_the_text_side_imports_no_torch() -> None:
    code = "import sys, fireside.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


TEXT = (
    "Good evening. The fire is lit, and there is tea. Dr. Smith paid $3.50 at 5 p.m. on Monday. Yes. "
    "It was the 3rd of May, 1999. 今天天气很好。我们去公园散步吧！你觉得怎么样？ The end is near... or not. "
    "Then we all went home to sleep."
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 1000])
def test_text_that_streams_in_gives_the_same_pieces(size: int) -> None:
    stream = StreamingFrontend(FRONTEND)
    got: list[Piece] = []
    for i in range(0, len(TEXT), size):
        got += stream.push(TEXT[i : i + size])
    got += stream.finish()
    assert got == FRONTEND.pieces(TEXT)


def test_a_complete_sentence_is_given_out_at_once() -> None:
    stream = StreamingFrontend(FRONTEND)
    assert stream.push("It costs three dollars and 3") == []
    assert stream.push(".") == []
    assert stream.push("5 cents. ") == []
    assert [p.text for p in stream.push("And then ")] == ["It costs three dollars and 3.5 cents."]
    assert [p.text for p in stream.push("we all went home together. 今天天气真的很好。")] == [
        "And then we all went home together."
    ]
    assert [p.text for p in stream.push("我")] == ["今天天气真的很好。"]
    assert [p.text for p in stream.finish()] == ["我"]


def test_a_flush_does_not_wait_for_the_end_of_the_sentence() -> None:
    stream = StreamingFrontend(FRONTEND)
    assert stream.push("I will tell you, ") == []
    assert [p.text for p in stream.flush()] == ["I will tell you,"]
    assert stream.flush() == []
    assert stream.push("but ") == []
    assert [p.text for p in stream.flush()] == ["but"]
    assert stream.finish() == [], "all of it was given out"
    silent = StreamingFrontend(FRONTEND)
    silent.push("...")
    assert silent.flush() == []
    with pytest.raises(TextError):
        silent.finish()


def test_a_stream_with_nothing_to_say_is_an_error() -> None:
    stream = StreamingFrontend(FRONTEND)
    assert stream.push(" ... ") == []
    with pytest.raises(TextError):
        stream.finish()


def test_a_stream_that_ends_in_blanks_is_not() -> None:
    stream = StreamingFrontend(FRONTEND)
    given = stream.push("Hello there, my good friend. How are you on this fine day? ")
    given += stream.finish()
    assert [p.text for p in given] == split("Hello there, my good friend. How are you on this fine day? ")
    assert stream.finish() == []
